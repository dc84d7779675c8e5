"""What the decoder is asked for, and the randomness that belongs to one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from v2flow_engine.config import MAX_SEED, VisualTokenizerConfig
from v2flow_engine.errors import RequestError


@dataclass(frozen=True)
class DecodeRequest:
    """One image to decode.

    codes: (S,) int64 in [0, K). size: "WxH" in pixels. rounds: masked autoregressive rounds, 1..N.
    flow_steps: solver evaluations per round. guidance_scale: the decoder's own (1: no second half).
    """

    codes: torch.Tensor
    seed: int
    size: str
    rounds: int = 4
    flow_steps: int = 10
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise RequestError(f"seed must be between 0 and {MAX_SEED}, got {self.seed}")
        if not 1 <= self.flow_steps <= 1000:
            raise RequestError(f"flow_steps must be between 1 and 1000, got {self.flow_steps}")
        if not 0.0 <= self.guidance_scale <= 100.0:
            raise RequestError(f"the decoder's guidance must be between 0 and 100, got {self.guidance_scale}")


@dataclass(frozen=True)
class ImageNoise:
    """order: (N,) int64, a permutation of the positions; noise: (N, C p^2), where each position's flow starts."""

    order: torch.Tensor
    noise: torch.Tensor


def image_noise(config: VisualTokenizerConfig, seed: int) -> ImageNoise:
    """An image's order and noise from its seed alone, on the CPU, so that neither batch nor device change it."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(config.num_positions, generator=generator)
    noise = torch.randn(config.num_positions, config.token_channels, generator=generator)
    return ImageNoise(order, noise)
