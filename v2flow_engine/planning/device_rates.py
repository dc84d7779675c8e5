"""What a device does at best: operations per second of a large product, bytes per second of a copy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

LONGEST_PRODUCT = 0.5  # seconds


def matmul_rate(device: str, dtype: torch.dtype, side: int = 2048) -> float:
    """Operations per second of a square product, of a smaller one where it would take long: a CPU without units for
    bfloat16 is a hundred times slower in it.
    """
    small = torch.ones(256, 256, device=device, dtype=dtype)
    seconds = median_seconds(lambda: small @ small, device, repeats=2)
    while side > 256 and seconds * (side / 256) ** 3 > LONGEST_PRODUCT:
        side //= 2
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2.0 * side**3 / median_seconds(lambda: left @ right, device)


def memory_rate(device: str, mebibytes: int = 256) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.ones(mebibytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / median_seconds(lambda: target.copy_(source), device)


def median_seconds(work: Callable[[], Any], device: str, repeats: int = 5) -> float:
    """Of one call, the first not counted."""
    seconds = []
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def synchronize(device: str) -> None:
    """Wait for the device; a processor is never behind."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
