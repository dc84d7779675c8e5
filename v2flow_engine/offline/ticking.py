"""What a user sees of a job while it runs: a look every second, and without a terminal a line where something moved.

Writes to one stream that it is given, so that others may redirect stderr meanwhile.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self, TextIO

_QUIET_SECONDS = 15.0


class Ticking(ABC):
    """Calls `tick` every second in a thread while the `with` block runs, and `close` at its end.

    Args:
        stream: the real stderr.
        done: pictures that were there before.
    """

    def __init__(self, stream: TextIO, done: int) -> None:
        self.stream = stream
        self._printed = (done, 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    @abstractmethod
    def tick(self) -> None:
        """A second has passed."""

    @abstractmethod
    def close(self) -> None:
        """Leave the terminal as it was."""

    def print_line(self, done: int, total: int, failed: int, seconds: float, speed: str) -> None:
        """How far the job is, if that has changed or nothing was said for a while."""
        before, when = self._printed
        if done == before and seconds - when < _QUIET_SECONDS:
            return
        self._printed = (done, seconds)
        lost = f", {failed} failed" if failed else ""
        print(f"{done}/{total} images{lost}, {seconds:.0f} s, {speed}", file=self.stream, flush=True)

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self.tick()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.close()
