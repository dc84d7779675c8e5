"""Ctrl-C and a polite kill -> KeyboardInterrupt, and once more if somebody swallowed it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self.heard = False

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if so.

        Python raises it wherever the main thread is; in a destructor, or in a callback that a C library made, it is
        printed or dropped instead, and the job would go on.
        """
        if self.heard:
            raise KeyboardInterrupt


@contextmanager
def listening() -> Iterator[Interrupts]:
    """Let SIGINT and SIGTERM raise `KeyboardInterrupt`. In other threads than the main one nothing is heard."""
    interrupts = Interrupts()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.heard = True
        raise KeyboardInterrupt

    before: dict[int, signal.Handlers] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, interrupt)
    except ValueError:  # not the main thread
        pass
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
