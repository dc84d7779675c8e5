"""The processes of one training (ranks): who am I, wait for the others, add up what each of them has.

One process alone is the case of one rank, in which nothing is sent. `torchrun` (or any launcher that sets RANK,
WORLD_SIZE and LOCAL_RANK) makes more. Knows nothing of what is trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from v2flow_engine.errors import DataError, RequestError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """rank: this process, from 0; world: how many there are; device: where this one computes."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print a line, once for all processes."""
        if self.is_first:
            print(text, flush=True)

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes, which all hand in the same shapes."""
        by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in tensors if self.world > 1 else ():
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for same in by_dtype.values():  # one message instead of hundreds
            flat = torch.cat([tensor.flatten() for tensor in same])
            dist.all_reduce(flat)
            for tensor, part in zip(same, flat.split([t.numel() for t in same]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    @torch.no_grad()
    def add_up_gradients(self, net: nn.Module) -> None:
        """Sum the gradients over the processes; those of tied weights count once, as they are one parameter."""
        self.add_up([p.grad for p in net.parameters() if p.grad is not None])

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.world > 1:
            dist.all_reduce(torch.zeros(1, device=self.device))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

    def once(self, compute: Callable[[], Value]) -> Value:
        """What the first process computes, the same in all."""
        value = [compute() if self.is_first else None]
        if self.world > 1:
            dist.broadcast_object_list(value, src=0, device=self.device)
        return value[0]

    def check_equal(self, what: str, value: Any) -> None:
        """Raise `DataError` in every process if they do not all have the same `value`."""
        if self.world == 1:
            return
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            raise DataError(
                f"the processes must have the same {what}, got {values}; do they all see the same files?"
            )


def join(device: str, minutes: float) -> Ranks:
    """Meet the processes that the launcher started; without a launcher, be the only one.

    Args:
        device: "cpu" (gloo), or "cuda" (nccl), which becomes the GPU that the launcher numbered for this process.
        minutes: how long a process waits for the others before it gives up.

    Raises `RequestError` for a single GPU's name with several processes, and for a GPU that is not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = torch.device(device)
    if world == 1:
        return Ranks(chosen)
    if chosen.type == "cuda":
        if chosen.index is not None:
            raise RequestError(f"--device must be cuda or cpu with {world} processes, got {device}")
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if chosen.index >= torch.cuda.device_count():
            raise RequestError(f"{torch.cuda.device_count()} GPUs here, too few for a process on {chosen}")
        torch.cuda.set_device(chosen)
    on_gpu = chosen.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        # A process that ends in an error is the launcher's to notice; the time is for one that hangs.
        timeout=timedelta(minutes=minutes),
        device_id=chosen if on_gpu else None,
    )
    return Ranks(chosen, dist.get_rank(), dist.get_world_size())


def leave(ranks: Ranks) -> None:
    """Part from the other processes, at the end of a training that went well."""
    if ranks.world > 1:
        dist.destroy_process_group()
