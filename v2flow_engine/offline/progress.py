"""Counts of finished pictures -> a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

from v2flow_engine.offline.ticking import Ticking


class Progress(Ticking):
    """How far a job is: a bar whose clock runs on a terminal, elsewhere a line per second when it moved.

    Args:
        total: pictures of the whole job.
        done: those that were there before.
    """

    def __init__(self, total: int, done: int, stream: TextIO) -> None:
        super().__init__(stream, done)
        self.total, self.initial, self.done, self.failed = total, done, done, 0
        self.start = time.perf_counter()
        self._bar = None
        if stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=done, unit="image", file=stream, dynamic_ncols=True, leave=True
            )

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.start

    def say(self, message: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.write(message, file=self.stream)
        else:
            print(message, file=self.stream, flush=True)

    def advance(self, *, failed: bool = False) -> None:
        """One more picture is finished, or failed."""
        self.done += 1
        self.failed += failed
        if self._bar is not None:
            if self.failed:
                self._bar.set_postfix(failed=self.failed, refresh=False)
            self._bar.update(1)

    def tick(self) -> None:
        """Let the bar's clock run, or print a line."""
        if self._bar is not None:
            self._bar.refresh()
            return
        seconds, made = self.seconds, self.done - self.initial
        speed = f"{made / seconds:.2f} images/s" if made else "starting"
        self.print_line(self.done, self.total, self.failed, seconds, speed)

    def close(self) -> None:
        """The bar stays as it was last."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
