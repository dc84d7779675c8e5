"""Metrics -> a live table on a terminal, plain lines elsewhere, and metrics.json every half minute."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from v2flow_engine.offline.metrics import Metrics
from v2flow_engine.offline.ticking import Ticking

if TYPE_CHECKING:
    from rich.table import Table

_WRITE_SECONDS = 30.0


class LiveTable(Ticking):
    """Shows a job while the `with` block runs.

    Args:
        metrics: of the job.
        stream: the real stderr.
        directory: where metrics.json goes while the job runs.
    """

    def __init__(self, metrics: Metrics, stream: TextIO, directory: Path) -> None:
        super().__init__(stream, metrics.done)
        self.metrics = metrics
        self.directory = directory
        self._written = 0.0
        self._live = None
        if stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=stream), auto_refresh=False)
            self._live.start()

    def say(self, message: str) -> None:
        """A line of its own."""
        if self._live is not None:
            self._live.console.print(message, markup=False, highlight=False, soft_wrap=True)
        else:
            print(message, file=self.stream, flush=True)

    def tick(self) -> None:
        """Measure, and show it; write it now and then."""
        metrics = self.metrics
        metrics.sample()
        now = metrics.seconds
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        else:
            self.print_line(metrics.done, metrics.total, metrics.failed, now, self._speed(now))
        if metrics.made and now - self._written > _WRITE_SECONDS:
            self._written = now
            with contextlib.suppress(OSError):  # the sink tells of a disk that is full
                metrics.write(self.directory)

    def close(self) -> None:
        """The table stays as it is at the end."""
        if self._live is not None:
            self.metrics.sample()
            self._live.update(self._table(), refresh=True)
            self._live.stop()
            self._live = None

    def _speed(self, now: float) -> str:
        if not self.metrics.made:
            return "starting"
        left = self.metrics.seconds_left()
        speed = f"{self.metrics.made / now:.2f} images/s"
        return speed if left is None else f"{speed}, {_duration(left)} left"

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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
