"""What warming up did, so that nobody mistakes it for the first request's time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmUp:
    """images: decoded and thrown away. rounds: run. seconds: wall clock, compilation and recording included."""

    images: int
    rounds: int
    seconds: float
