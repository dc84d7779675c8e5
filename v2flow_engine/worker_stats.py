"""What an engine worker counts -> `WorkerStats`, for a table, `/metrics` and the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

from v2flow_engine.histogram import SECONDS, SIZES, Histogram, Observed


@dataclass(frozen=True)
class WorkerStats:
    """Since the worker began. in_flight: submitted and not finished. deaths: engines that broke.

    running: of those in flight, that have taken part in a step. tokens: that the LLM wrote. queue_seconds: of a
    request before its first step; compute_seconds: from then to its end. batch_sizes: of steps.
    """

    queue_seconds: Observed
    compute_seconds: Observed
    batch_sizes: Observed
    in_flight: int
    running: int
    tokens: int
    finished: int
    failed: int
    cancelled: int
    steps: int
    deaths: int


class WorkerCounters:
    """Each written to by one thread at a time; any may look. The names are those of `WorkerStats`."""

    def __init__(self) -> None:
        self.tokens = self.finished = self.failed = self.cancelled = self.steps = self.deaths = 0
        self.queue_seconds, self.compute_seconds = Histogram(SECONDS), Histogram(SECONDS)
        self.batch_sizes = Histogram(SIZES)

    def stats(self, in_flight: int, running: int) -> WorkerStats:
        """As of now."""
        counted = {
            name: value.observed if isinstance(value, Histogram) else value
            for name, value in vars(self).items()
        }
        return WorkerStats(in_flight=in_flight, running=running, **counted)
