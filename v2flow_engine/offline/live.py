"""Metrics -> a live table on a terminal, plain lines elsewhere, and metrics.json every half minute.

Writes to one stream that it is given, so that others may redirect stderr meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from v2flow_engine.offline.metrics import Metrics

if TYPE_CHECKING:
    from rich.table import Table

_QUIET_SECONDS = 15.0
_WRITE_SECONDS = 30.0


class LiveTable:
    """Shows a job while the `with` block runs.

    Args:
        metrics: of the job.
        stream: the real stderr.
        directory: where metrics.json goes while the job runs.
    """

    def __init__(self, metrics: Metrics, stream: TextIO, directory: Path) -> None:
        self.metrics = metrics
        self.stream = stream
        self.directory = directory
        self._stop = threading.Event()
        self._printed = (metrics.done, 0.0)
        self._written = 0.0
        self._live = None
        if stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=stream), auto_refresh=False)
        self._thread = threading.Thread(target=self._tick, name="live", daemon=True)

    def say(self, message: str) -> None:
        """A line of its own."""
        if self._live is not None:
            self._live.console.print(message, markup=False, highlight=False, soft_wrap=True)
        else:
            print(message, file=self.stream, flush=True)

    def _tick(self) -> None:
        while not self._stop.wait(1.0):
            self.metrics.sample()
            if self._live is not None:
                self._live.update(self._table(), refresh=True)
            else:
                self._print_line()
            if self.metrics.made and self.metrics.seconds - self._written > _WRITE_SECONDS:
                self._written = self.metrics.seconds
                with contextlib.suppress(OSError):  # the sink tells of a disk that is full
                    self.metrics.write(self.directory)

    def _print_line(self) -> None:
        metrics, now = self.metrics, self.metrics.seconds
        done, when = self._printed
        if metrics.done == done and now - when < _QUIET_SECONDS:
            return
        self._printed = (metrics.done, now)
        failed = f", {metrics.failed} failed" if metrics.failed else ""
        speed = ", starting"
        if metrics.made:
            left = metrics.seconds_left()
            speed = f", {metrics.made / now:.2f} images/s"
            speed += f", {_duration(left)} left" if left is not None else ""
        line = f"{metrics.done}/{metrics.total} images{failed}, {now:.0f} s{speed}"
        print(line, file=self.stream, flush=True)

    def _table(self) -> Table:
        from rich.table import Table

        metrics = self.metrics
        sample = metrics.latest
        images, tokens = metrics.rates()
        left = metrics.seconds_left()
        table = Table.grid(padding=(0, 2))
        share = 100 * metrics.done / max(1, metrics.total)
        rows = [
            ("images", f"{metrics.done} of {metrics.total} ({share:.1f} %), {metrics.failed} failed"),
            ("speed", f"{images:.2f} images/s, {tokens:.0f} tokens/s"),
            ("time", f"{_duration(metrics.seconds)}, {_duration(left) if left is not None else '?'} left"),
        ]
        if metrics.pools:
            waiting = sample.queues
            queues = (
                f"{waiting['waiting']} wait, {waiting['tokens']} in the LLM, {waiting['between']} between, "
            )
            rows.append(("queues", queues + f"{waiting['decoder']} in the decoder"))
            rows += [
                (f"{pool} actors", f"{count}, {100 * sample.utilisation.get(pool, 0.0):.0f} % busy")
                for pool, count in metrics.pools.items()
            ]
        for name, value in rows:
            table.add_row(name, value)
        return table

    def __enter__(self) -> LiveTable:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._live is not None:
            self.metrics.sample()
            self._live.update(self._table(), refresh=True)
            self._live.stop()
            self._live = None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
