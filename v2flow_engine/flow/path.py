"""The one time convention: t = 0 is noise, t = 1 is data, x_t = (1 - t) noise + t data, velocity = data - noise.

Source: rectified flow (arXiv 2209.03003). Turns a trained velocity net with its own convention into that one. Knows
nothing of solvers.
"""

from __future__ import annotations

import torch

from v2flow_engine.config import FlowConfig


def interpolate(noise: torch.Tensor, data: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """noise and data (M, C), t (M,) in [0, 1] -> x_t (M, C)."""
    return torch.lerp(noise, data, t[:, None].to(data.dtype))


def net_time(flow: FlowConfig, t: torch.Tensor) -> torch.Tensor:
    """t in [0, 1] -> the time that the net was trained with."""
    return 1000.0 * (1.0 - t) if flow.method == "linear_flow" else t


def to_velocity(flow: FlowConfig, output: torch.Tensor) -> torch.Tensor:
    """The net's output -> velocity data - noise."""
    return -output if flow.method == "linear_flow" else output


def sample_time(flow: FlowConfig, count: int, generator: torch.Generator) -> torch.Tensor:
    """Training times (count,) in (0, 1): logit-normal for linear_flow (arXiv 2403.03206), uniform for CondOT."""
    device = generator.device
    if flow.method == "linear_flow":
        return torch.randn(count, generator=generator, device=device).sigmoid()
    return torch.rand(count, generator=generator, device=device)
