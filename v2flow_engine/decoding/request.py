"""What the decoder is asked for, and the randomness that belongs to one image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat

import torch

from v2flow_engine.config import (
    GUIDANCE_SCHEDULES,
    MAX_FLOW_STEPS,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_TEMPERATURE,
    SOLVERS,
    Grid,
    VisualTokenizerConfig,
)
from v2flow_engine.errors import RequestError


@dataclass(frozen=True)
class DecodeRequest:
    """One image to decode, or to draw anew in part.

    codes: (S,) int64 in [0, K). size: "WxH" in pixels. rounds: masked autoregressive rounds, 1..N.
    flow_steps: solver steps per round. guidance_scale: the decoder's own (1: no second half).
    temperature: scale of the noise where the flow starts (MAR's temperature, arXiv 2406.11838, for a flow).
    known_latents: (C, h, w), scaled; kept exactly wherever `redraw` does not say otherwise.
    redraw: (N,) bool, the latent positions to draw; with it, rounds are 1 to as many as these.
    solver, guidance_schedule: as in `FlowConfig`; None for the model's own.
    """

    codes: torch.Tensor
    seed: int
    size: str
    rounds: int = 4
    flow_steps: int = 10
    guidance_scale: float = 1.0
    temperature: float = 1.0
    known_latents: torch.Tensor | None = None
    redraw: torch.Tensor | None = None
    solver: str | None = None
    guidance_schedule: str | None = None

    def __post_init__(self) -> None:
        if (self.known_latents is None) != (self.redraw is None):
            raise RequestError("known_latents and redraw must be given together")
        if not 0 <= self.seed <= MAX_SEED:
            raise RequestError(f"seed must be between 0 and {MAX_SEED}, got {self.seed}")
        if not 1 <= self.flow_steps <= MAX_FLOW_STEPS:
            raise RequestError(f"flow_steps must be between 1 and {MAX_FLOW_STEPS}, got {self.flow_steps}")
        if self.solver not in (None, *SOLVERS):
            raise RequestError(f"solver {self.solver!r} is none of {', '.join(SOLVERS)}")
        if self.guidance_schedule not in (None, *GUIDANCE_SCHEDULES):
            raise RequestError(
                f"guidance_schedule must be {' or '.join(GUIDANCE_SCHEDULES)}, got {self.guidance_schedule!r}"
            )
        if not 0.0 <= self.guidance_scale <= MAX_GUIDANCE:
            raise RequestError(
                f"the decoder's guidance must be between 0 and {MAX_GUIDANCE:g}, got {self.guidance_scale}"
            )
        if not 0.0 <= self.temperature <= MAX_TEMPERATURE:
            raise RequestError(
                f"the decoder's temperature must be between 0 and {MAX_TEMPERATURE:g}, got {self.temperature}"
            )


@dataclass(frozen=True)
class ImageNoise:
    """order: (N,) int64, a permutation of the positions; noise: (N, C p^2), where each position's flow starts."""

    order: torch.Tensor
    noise: torch.Tensor


def image_noise(
    config: VisualTokenizerConfig, seed: int, grid: Grid | None = None, temperature: float = 1.0
) -> ImageNoise:
    """An image's order and noise from its seed and grid alone (None: the model's full grid), scaled.

    Drawn on the CPU, so that neither batch nor device change it.
    """
    generator = torch.Generator().manual_seed(seed)
    num_positions = math.prod(config.positions_of(grid or config.token_grid))
    order = torch.randperm(num_positions, generator=generator)
    noise = torch.randn(num_positions, config.token_channels, generator=generator)
    return ImageNoise(order, temperature * noise)


def images_noise(
    config: VisualTokenizerConfig,
    seeds: Iterable[int],
    grid: Grid,
    device: torch.device,
    temperatures: Iterable[float] = repeat(1.0),
) -> ImageNoise:
    """`image_noise` of several images of one grid, stacked on the device: order (B, N), noise (B, N, C p^2)."""
    own = [image_noise(config, seed, grid, t) for seed, t in zip(seeds, temperatures, strict=False)]
    return ImageNoise(
        *(torch.stack(each).to(device) for each in zip(*((n.order, n.noise) for n in own), strict=True))
    )
