"""Counts of finished pictures -> a progress bar on a terminal, plain lines elsewhere.

Writes to one stream that it is given, so that others may redirect stderr meanwhile.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TextIO

_QUIET_SECONDS = 15.0


class Progress:
    """How far a job is: a bar whose clock runs on a terminal, elsewhere a line per second when it moved.

    Args:
        total: pictures of the whole job.
        done: those that were there before.
    """

    def __init__(self, total: int, done: int, stream: TextIO) -> None:
        self.total, self.initial, self.done, self.failed = total, done, done, 0
        self.stream = stream
        self.start = time.perf_counter()
        self._printed = (done, 0.0)
        self._stop = threading.Event()
        self._bar = None
        if stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=done, unit="image", file=stream, dynamic_ncols=True, leave=True
            )
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

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

    def _tick(self) -> None:
        while not self._stop.wait(1.0):
            if self._bar is not None:
                self._bar.refresh()
            else:
                self._print_line(self.seconds)

    def _print_line(self, now: float) -> None:
        done, when = self._printed
        if self.done == done and now - when < _QUIET_SECONDS:
            return
        self._printed = (self.done, now)
        rate = (self.done - self.initial) / now
        failed = f", {self.failed} failed" if self.failed else ""
        speed = f", {rate:.2f} images/s" if self.done > self.initial else ", starting"
        print(f"{self.done}/{self.total} images{failed}, {now:.0f} s{speed}", file=self.stream, flush=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()
            self._bar = None
