"""Batches from the driver -> a Ray dataset that is still being written: the feed of the pipeline, and its logbook.

An actor beside the driver keeps each batch until it is finished, so that Ray can read it again after a worker or a
node is lost, and knows in which stage each is. One dataset row is one batch, pickled. Ray is imported lazily.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.data import Dataset

STAGES = ("waiting", "tokens", "between", "decoder", "done")


@dataclass
class FeedState:
    """A moment of the pipeline, as the feed saw it.

    queues: unfinished pictures in each of `STAGES`. busy, rows: seconds that each pool has worked since the start, and
    pictures; first: those of its first batch. workers: processes that have worked, by pool.
    """

    queues: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    busy: dict[str, float] = field(default_factory=lambda: {"tokens": 0.0, "decoder": 0.0})
    rows: dict[str, int] = field(default_factory=lambda: {"tokens": 0, "decoder": 0})
    workers: dict[str, int] = field(default_factory=lambda: {"tokens": 0, "decoder": 0})
    first: dict[str, tuple[float, int]] = field(default_factory=dict)

    def seconds_per_picture(self, pool: str) -> float:
        """Of a worker, without the pool's first batch, in which all warms up, if there is another; 0 before any."""
        seconds, rows = self.busy[pool], self.rows[pool]
        first_seconds, first_rows = self.first.get(pool, (0.0, 0))
        if rows > first_rows:
            seconds, rows = seconds - first_seconds, rows - first_rows
        return seconds / max(1, rows)


class Feed:
    """The actor. An async one: all methods run in one thread, and `get` may wait."""

    def __init__(self) -> None:
        self._batches: dict[int, tuple[bytes, int]] = {}
        self._stage: dict[int, str] = {}
        self._started: dict[tuple[int, str], float] = {}
        # actor -> its process, and what that began last
        self._last_begun: dict[str, tuple[str, tuple[int, str]]] = {}
        self._died_with: set[tuple[int, str]] = set()
        self._count = 0
        self._end: int | None = None
        self._news = asyncio.Event()
        self._state = FeedState()
        self._workers: dict[str, set[str]] = {"tokens": set(), "decoder": set()}

    async def put(self, number: int, batch: bytes, rows: int) -> None:
        """Keep a batch until `drop`."""
        self._batches[number] = (batch, rows)
        self._stage[number] = "waiting"
        self._count = number + 1
        self._wake()

    async def end(self, count: int) -> None:
        """There are no more than `count` batches."""
        self._end = count
        self._wake()

    async def get(self, number: int) -> bytes | None:
        """A batch; b"" for one that is finished already, None behind the last one."""
        while number >= self._count and (self._end is None or number < self._end):
            await self._news.wait()
        if number >= self._count:
            return None
        return self._batches[number][0] if number in self._batches else b""

    async def drop(self, number: int) -> None:
        """A batch is finished."""
        self._batches.pop(number, None)
        self._stage.pop(number, None)
        for pool in ("tokens", "decoder"):  # a worker that died has not ended its part
            self._started.pop((number, pool), None)
            self._died_with.discard((number, pool))

    async def note(self, number: int, stage: str, worker: str, actor: str = "") -> None:
        """A worker starts ("tokens", "decoder") or ends ("between", "done") its part of a batch.

        actor: whose process the worker is; it stays the same when another process takes over.
        """
        now = time.monotonic()
        pool = {"between": "tokens", "done": "decoder"}.get(stage, stage)
        self._workers[pool].add(worker)
        if stage == pool:
            before, part = self._last_begun.get(actor, (worker, (number, pool)))
            if before != worker and part in self._started:
                self._died_with.add(part)
            self._last_begun[actor] = worker, (number, pool)
            self._started[number, pool] = now
        else:
            self._died_with.discard((number, pool))
            seconds = now - self._started.pop((number, pool), now)
            _, rows = self._batches.get(number, (b"", 0))
            self._state.first.setdefault(pool, (seconds, rows))
            self._state.busy[pool] += seconds
            self._state.rows[pool] += rows
        if number in self._batches:
            self._stage[number] = stage

    async def died_with(self) -> list[int]:
        """Unfinished batches that a worker died at work on: another process of its actor has begun one since."""
        return [number for number, _ in self._died_with]

    async def state(self) -> FeedState:
        """As of now, batches under way included in `busy`."""
        now = time.monotonic()
        state = self._state
        queues = dict.fromkeys(STAGES, 0)
        for number, (_, rows) in self._batches.items():
            queues[self._stage[number]] += rows
        busy = dict(state.busy)
        for (_, pool), started in self._started.items():
            busy[pool] += now - started
        workers = {pool: len(names) for pool, names in self._workers.items()}
        return FeedState(queues, busy, dict(state.rows), workers, dict(state.first))

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def start_feed() -> ActorHandle:
    """The actor, on the driver's own node."""
    import ray

    remote = ray.remote(Feed).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=_here())
    return remote.remote()


def read_feed(batch: dict[str, Any], feed: ActorHandle) -> Iterator[dict[str, Any]]:
    """The reading task: batches in their order, until the end. Read again, it gives the same ones."""
    import ray

    number = 0
    while (data := ray.get(feed.get.remote(number))) is not None:
        yield {"number": np.asarray([number]), "batch": np.asarray([data], dtype=object)}
        number += 1


def feed_dataset(feed: ActorHandle) -> Dataset:
    """A dataset with a row for each batch, read while the driver still puts batches in."""
    import ray.data

    start = ray.data.from_items([{"feed": 0}], override_num_blocks=1)
    return start.map_batches(
        read_feed,
        fn_args=(feed,),
        batch_size=None,
        num_cpus=0,
        scheduling_strategy=_here(),
        zero_copy_batch=True,
    )


def note_begun(feed: ActorHandle, number: int, pool: str, worker: str) -> None:
    """Tell the feed that a worker starts its part of a batch, and wait until it knows: the batch may be its death."""
    import ray

    ray.get(feed.note.remote(number, pool, worker, ray.get_runtime_context().get_actor_id()))


def worker_name() -> str:
    """This process, told apart from those of other machines."""
    return f"{os.uname().nodename}:{os.getpid()}"


def _here() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
