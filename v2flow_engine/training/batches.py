"""(seed, step) -> the step's batch, cut into the parts that processes and micro-batches compute.

What is random of a sample is in `draws.py`. Knows nothing of what the samples are.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache

import torch

from v2flow_engine.errors import DataError
from v2flow_engine.training.draws import Draws, draws_of, mixed_seed
from v2flow_engine.training.ranks import Ranks


def spread(samples: Sized, count: int) -> torch.Tensor:
    """Up to `count` indices, int64, spread evenly over a set."""
    return torch.linspace(0, len(samples) - 1, min(count, len(samples))).long()


@dataclass(frozen=True)
class BatchPart:
    """Some samples of a step's batch, computed in one go.

    chosen: the set that the batch comes from. indices (b,): the samples in that set. first: the place of this part's
    first sample in the whole batch. whole: B, samples of the whole batch.
    """

    seed: int
    step: int
    chosen: int
    indices: torch.Tensor
    first: int
    whole: int

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def share(self) -> float:
        """Weight of this part's mean in the mean over the whole batch."""
        return len(self) / self.whole

    def evenly(self, share: float) -> torch.Tensor:
        """(b,) bool: this share of the whole batch, spread evenly from a random start, so that no part has more work
        than another.
        """
        start = mixed_seed(self.seed, self.step) / 2**32
        places = torch.arange(self.first, self.first + len(self) + 1, dtype=torch.float64)
        return (places * share + start).floor().diff() > 0

    def draws(self, device: torch.device) -> Draws:
        """The samples' random numbers, from their start: the same ones whenever it is called."""
        return draws_of(self.seed, self.step, self.first, len(self), device)


def check_batches(counts: Sequence[int], batch_size: int, world: int) -> None:
    """Raise `DataError` unless every process gets a sample of every batch."""
    smallest = min(batch_size, *counts)
    if smallest < world:
        raise DataError(
            f"{world} processes need batches of at least {world}, got {smallest} "
            f"(batch_size {batch_size}; pictures of each size: {', '.join(map(str, counts))})"
        )


def step_parts(
    counts: Sequence[int], batch_size: int, step: int, seed: int, accumulate: int, ranks: Ranks
) -> list[BatchPart]:
    """This process's parts of a step's batch, `accumulate` of them, or fewer where there are fewer samples."""
    chosen, indices = epoch_indices(counts, batch_size, step, seed)
    mine = torch.arange(len(indices)).tensor_split(ranks.world)[ranks.rank]
    return [
        BatchPart(seed, step, chosen, indices[places], int(places[0]), len(indices))
        for places in mine.tensor_split(accumulate)
        if len(places)
    ]


def epoch_indices(counts: Sequence[int], batch_size: int, step: int, seed: int) -> tuple[int, torch.Tensor]:
    """The batch of a step: (which set, its indices (batch_size,) int64), a function of (seed, step).

    counts: pictures of each set; a batch comes from one set. An epoch is one pass over all sets without replacement,
        their batches shuffled.
    """
    sizes = [min(batch_size, count) for count in counts]
    batches = [count // size for count, size in zip(counts, sizes, strict=True)]
    epoch, place = divmod(step, sum(batches))
    chosen, place = 0, int(_permutation(sum(batches), mixed_seed(seed, epoch))[place])
    while place >= batches[chosen]:
        place -= batches[chosen]
        chosen += 1
    permutation = _permutation(counts[chosen], mixed_seed(seed, epoch, chosen + 1))
    return chosen, permutation[place * sizes[chosen] : (place + 1) * sizes[chosen]]


@lru_cache(maxsize=16)
def _permutation(count: int, seed: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
