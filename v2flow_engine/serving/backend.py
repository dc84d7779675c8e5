"""What the app needs of the two stages, wherever they run.

All raise the same errors: `RequestError` for what the model cannot do, `QueueFullError`, `EngineDeadError`. Cancelling
the task that waits frees the work behind it. trace: the traceparent of the span that a call is part of, if any.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

    from v2flow_engine.decoding.request import DecodeRequest
    from v2flow_engine.generation.request import TokenRequest


@dataclass(frozen=True)
class EncodedPicture:
    """codes: (S,) int64. latents: (C, h, w), scaled, float32. Both on the CPU."""

    codes: torch.Tensor
    latents: torch.Tensor


@dataclass(frozen=True)
class Drawn:
    """rounds: that are done, None for the finished picture. pixels: (H, W, 3) uint8."""

    rounds: int | None
    pixels: np.ndarray


Stats = dict[str, dict[str, dict[str, Any]]]  # stage, replica, what `WorkerStats` holds


class Backend(Protocol):
    """Token generator and decoder."""

    async def write_tokens(self, request: TokenRequest, trace: str | None = None) -> list[int]:
        """visual_token_ids of an image."""

    def decode(
        self, request: DecodeRequest, previews: Sequence[int], trace: str | None = None
    ) -> AsyncIterator[Drawn]:
        """The picture after each of the rounds that are named, and last the finished one."""

    async def encode(self, pixels: np.ndarray, trace: str | None = None) -> EncodedPicture:
        """(H, W, 3) uint8 of one of the model's sizes -> what the tokenizer makes of it."""

    async def check(self) -> None:
        """Return if both stages answer. Raises `EngineDeadError` otherwise."""

    async def stats(self) -> Stats:
        """Counters by stage and replica."""

    async def close(self) -> None:
        """Finish what is under way, then stop."""
