"""The one time convention: t = 0 is noise, t = 1 is data, x_t = (1 - t) noise + t data, velocity = data - noise.

Source: rectified flow (arXiv 2209.03003). Turns a trained velocity net with its own convention into that one. Knows
nothing of solvers.
"""

from __future__ import annotations

from typing import Protocol

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


class Numbers(Protocol):
    """Random numbers of several samples, (b, count)."""

    def rand(self, count: int) -> torch.Tensor:
        """Uniform in [0, 1)."""

    def randn(self, count: int) -> torch.Tensor:
        """Standard normal."""


def sample_time(flow: FlowConfig, count: int, numbers: Numbers) -> torch.Tensor:
    """Training times (b, count) in (0, 1): logit-normal for linear_flow (arXiv 2403.03206), uniform for CondOT."""
    return numbers.randn(count).sigmoid() if flow.method == "linear_flow" else numbers.rand(count)
