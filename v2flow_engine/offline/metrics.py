"""A job while it runs -> numbers: how far it is, how fast, how busy; kept as metrics.json beside the pictures.

The history is thinned as it grows, so that a job of a week keeps as many points as one of an hour.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from v2flow_engine.files import write_whole
from v2flow_engine.offline.feed import FeedState

METRICS = "metrics.json"
MAX_POINTS = 720
MAX_EARLIER = 100
RATE_SECONDS = 30.0  # the time over which the current rate is measured


@dataclass(frozen=True)
class Sample:
    """A moment: seconds since the start, pictures made and failed by this run, visual tokens of those that were made,
    queues, utilisation of both pools.
    """

    seconds: float
    made: int
    failed: int
    tokens: int
    queues: dict[str, int]
    utilisation: dict[str, float]


@dataclass
class Metrics:
    """What a job knows of itself.

    total: pictures of the whole job. before: of them finished earlier. pools: actors of each kind. state: asks the
    pipeline how it is. earlier: what earlier runs of the same job left of themselves, without their histories.
    """

    total: int
    before: int
    pools: dict[str, int] = field(default_factory=dict)
    state: Callable[[], FeedState] = FeedState
    made: int = 0
    failed: int = 0
    tokens: int = 0
    image_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    earlier: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started = time.time()
        self._clock = time.perf_counter()
        self.first_picture: float | None = None
        self.history: list[Sample] = []
        self._every = 1
        self._ticks = 0
        self._recent: list[Sample] = []  # over RATE_SECONDS, as is _busy
        self._busy: list[tuple[float, dict[str, float]]] = []

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._clock

    @property
    def done(self) -> int:
        """Pictures accounted for: finished before, made, failed."""
        return self.before + self.made + self.failed

    def advance(self, size: int, tokens: int = 0) -> None:
        """One more picture is finished; `size` in bytes."""
        if self.first_picture is None:
            self.first_picture = self.seconds
        self.made += 1
        self.image_bytes += size
        self.tokens += tokens

    def sample(self) -> Sample:
        """Measure, and remember."""
        state = self.state()
        now = self.seconds
        busy = dict(state.busy)
        sample = Sample(
            now, self.made, self.failed, self.tokens, dict(state.queues), self._utilisation(now, busy)
        )
        self._busy.append((now, busy))
        self._recent.append(sample)
        while len(self._recent) > 2 and now - self._recent[0].seconds > RATE_SECONDS:
            self._recent.pop(0)
            self._busy.pop(0)
        self._remember(sample)
        return sample

    def _utilisation(self, now: float, busy: dict[str, float]) -> dict[str, float]:
        """Share of the pools' time that they worked, over the last half minute."""
        if not self._busy:
            return {pool: 0.0 for pool in busy}
        then, before = self._busy[0]
        elapsed = max(now - then, 1e-9)
        return {
            pool: round(
                min(1.0, max(0.0, value - before.get(pool, 0.0)) / elapsed / self.pools.get(pool, 1)), 3
            )
            for pool, value in busy.items()
        }

    @property
    def latest(self) -> Sample:
        """The last measurement; makes the first one."""
        return self._recent[-1] if self._recent else self.sample()

    def rates(self) -> tuple[float, float]:
        """(pictures, visual tokens) a second over the last half minute."""
        if len(self._recent) < 2:
            return 0.0, 0.0
        first, last = self._recent[0], self._recent[-1]
        seconds = max(last.seconds - first.seconds, 1e-9)
        return (last.made - first.made) / seconds, (last.tokens - first.tokens) / seconds

    def seconds_left(self) -> float | None:
        """At the current rate; None while there is none."""
        images, _ = self.rates()
        return (self.total - self.done) / images if images > 0 else None

    def _remember(self, sample: Sample) -> None:
        self._ticks += 1
        if self._ticks % self._every == 0:
            self.history.append(sample)
        if len(self.history) >= MAX_POINTS:
            self.history = self.history[1::2]
            self._every *= 2

    def to_dict(self, stopped: str = "") -> dict[str, Any]:
        """The content of metrics.json. images_per_second: from the first finished batch on, loading left out."""
        working = self.seconds - (self.first_picture if self.first_picture is not None else self.seconds)
        return {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(self.seconds, 3),
            "seconds_to_first_picture": self.first_picture and round(self.first_picture, 3),
            "pictures": self.total,
            "finished_before": self.before,
            "made": self.made,
            "failed": self.failed,
            "image_bytes": self.image_bytes,
            "images_per_second": round(self.made / self.seconds, 4) if self.made else 0.0,
            "images_per_second_after_loading": round(self.made / working, 4) if working > 0.1 else None,
            "actors": self.pools,
            "stopped": stopped,
            "notes": self.notes,
            "earlier": self.earlier,
            "history": [asdict(sample) for sample in self.history],
        }

    def write(self, directory: Path, stopped: str = "") -> None:
        """Replace metrics.json."""
        text = json.dumps(self.to_dict(stopped), indent=1, ensure_ascii=False) + "\n"
        write_whole(directory / METRICS, text.encode())


def read_metrics(directory: Path) -> dict[str, Any]:
    """metrics.json; empty if there is none, or none that can be read."""
    try:
        content = json.loads((directory / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def earlier_runs(directory: Path) -> list[dict[str, Any]]:
    """What the runs before left in metrics.json, oldest first; `MAX_EARLIER` at most."""
    last = read_metrics(directory)
    if not last:
        return []
    summary = {name: value for name, value in last.items() if name not in ("history", "earlier")}
    return [*last.get("earlier", []), summary][-MAX_EARLIER:]
