"""Which positions are predicted in which round, and with how much guidance.

Source: MaskGIT's cosine schedule (arXiv 2202.04200) as MAR uses it. Knows nothing of networks.
"""

from __future__ import annotations

import math

import torch

from v2flow_engine.errors import RequestError


def mask_lengths(num_positions: int, rounds: int) -> list[int]:
    """Positions still masked after each round, the last of them 0.

    After round i that is floor(N cos(pi/2 (i+1)/rounds)), at least 1 and at most one less than before.
    Raises `RequestError` unless 1 <= rounds <= N.
    """
    if not 1 <= rounds <= num_positions:
        raise RequestError(f"rounds must be between 1 and {num_positions}, got {rounds}")
    lengths, masked = [], num_positions
    for i in range(rounds - 1):
        masked = max(1, min(masked - 1, math.floor(num_positions * math.cos(math.pi / 2 * (i + 1) / rounds))))
        lengths.append(masked)
    return [*lengths, 0]


def round_positions(order: torch.Tensor, rounds: int) -> list[torch.Tensor]:
    """The positions that each round predicts, ascending.

    Args:
        order: (N,) int64, a permutation; with m positions still masked these are `order[:m]`.
    """
    ends = [len(order), *mask_lengths(len(order), rounds)]
    return [order[ends[i + 1] : ends[i]].sort().values for i in range(rounds)]


def guidance_scales(
    num_positions: int,
    rounds: int,
    scale: float,
    schedule: str = "constant",
    num_masked: int | None = None,
) -> list[float]:
    """The guidance scale of each round: constant, or growing linearly with the share of positions that are known.

    num_masked: positions that are not known from the start; None is all of them.
    """
    if schedule == "constant":
        return [scale] * rounds
    if schedule == "linear":
        lengths = mask_lengths(num_positions if num_masked is None else num_masked, rounds)
        # The reference keeps one position masked in its own arithmetic even after the last round.
        return [1.0 + (scale - 1.0) * (num_positions - max(1, length)) / num_positions for length in lengths]
    raise RequestError(f"guidance schedule must be constant or linear, got {schedule!r}")
