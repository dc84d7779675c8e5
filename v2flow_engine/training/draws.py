"""Random numbers of a batch's samples, each a function of (seed, step, its place in the whole batch) alone.

So neither the number of processes nor accumulation changes what is computed. Knows nothing of what the samples are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch


class Draws(Protocol):
    """Numbers of b samples, (b, ...): the same for a sample alone and in any batch, others at every call."""

    def rand(self, *shape: int) -> torch.Tensor:
        """Uniform in [0, 1), (b, *shape) float32."""

    def randn(self, *shape: int) -> torch.Tensor:
        """Standard normal, (b, *shape) float32."""

    def randint(self, high: int) -> torch.Tensor:
        """Integers in [0, high), (b,) int64."""


def draws_of(seed: int, step: int, first: int, count: int, device: torch.device) -> Draws:
    """Those of `count` samples from place `first` on: from generators on a CPU, hashed elsewhere."""
    return (GeneratorDraws if device.type == "cpu" else HashedDraws)(seed, step, first, count, device)


class GeneratorDraws:
    """A generator of torch for each sample."""

    def __init__(self, seed: int, step: int, first: int, count: int, device: torch.device) -> None:
        self.generators = [
            torch.Generator(device).manual_seed(mixed_seed(seed, step, first + i)) for i in range(count)
        ]

    def rand(self, *shape: int) -> torch.Tensor:
        """See `Draws`."""
        return self._each(lambda generator: torch.rand(shape, generator=generator, device=generator.device))

    def randn(self, *shape: int) -> torch.Tensor:
        """See `Draws`."""
        return self._each(lambda generator: torch.randn(shape, generator=generator, device=generator.device))

    def randint(self, high: int) -> torch.Tensor:
        """See `Draws`."""
        return self._each(
            lambda generator: torch.randint(high, (), generator=generator, device=generator.device)
        )

    def _each(self, draw: Callable[[torch.Generator], torch.Tensor]) -> torch.Tensor:
        return torch.stack([draw(generator) for generator in self.generators])


class HashedDraws:
    """All samples' numbers at once, by SplitMix64 (Steele, Lea and Flood 2014) of each sample's own start.

    A GPU takes longer to be told of a number than to make it: 27 us a sample and draw with generators, beside an H100,
    which was a fifth of an LLM's step of 512 samples.
    """

    def __init__(self, seed: int, step: int, first: int, count: int, device: torch.device) -> None:
        places = torch.arange(first, first + count, device=device)
        self.starts = _mixed(places + _mixed(_mixed(torch.tensor(seed, device=device)) + step))
        self.drawn = 0

    def rand(self, *shape: int) -> torch.Tensor:
        """See `Draws`."""
        return self._top(24, shape) * 2.0**-24

    def randn(self, *shape: int) -> torch.Tensor:
        """See `Draws`. Beyond 5.4 nothing comes."""
        return torch.special.ndtri((self._top(24, shape) + 0.5) * 2.0**-24)

    def randint(self, high: int) -> torch.Tensor:
        """See `Draws`."""
        return (self._bits(()) >> 1 & _ones(62)) % high

    def _top(self, bits: int, shape: tuple[int, ...]) -> torch.Tensor:
        return (self._bits(shape) >> (64 - bits) & _ones(bits)).float()

    def _bits(self, shape: tuple[int, ...]) -> torch.Tensor:
        """(b, *shape) int64, all 64 bits random."""
        count = math.prod(shape)
        places = torch.arange(self.drawn + 1, self.drawn + 1 + count, device=self.starts.device)
        self.drawn += count
        return _mixed(self.starts[:, None] + places * _GAMMA).view(-1, *shape)


_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # as int64 has it


def _ones(bits: int) -> int:
    return (1 << bits) - 1


def _mixed(z: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finalizer, int64 -> int64; sums and products wrap around, and shifts are made logical."""
    z = z + _GAMMA
    z = (z ^ (z >> 30 & _ones(34))) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ (z >> 27 & _ones(37))) * (0x94D049BB133111EB - 2**64)
    return z ^ (z >> 31 & _ones(33))


def mixed_seed(*numbers: int) -> int:
    """Several numbers -> one seed of 32 bits, which is all that torch's CPU generator looks at."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
