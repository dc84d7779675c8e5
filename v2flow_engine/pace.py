"""Times at which requests finished -> how long until there is room for one more. Knows nothing of the requests."""

from __future__ import annotations

import time
from collections import deque

REMEMBERED = 64
AT_LEAST, AT_MOST, UNKNOWN = 1.0, 60.0, 5.0  # seconds


class Pace:
    """The rate at which places become free, over the last few that did."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=REMEMBERED)
        self._in_flight = 0

    def one_left(self, in_flight: int) -> None:
        """A request ended; `in_flight` were under way with it."""
        self._ends.append(time.monotonic())
        self._in_flight = in_flight

    def seconds_until_room(self) -> float:
        """What to tell a caller who was refused: the time that half of what is under way takes, 1 to 60 s."""
        if len(self._ends) < 2:
            return UNKNOWN
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return min(AT_MOST, max(AT_LEAST, each * self._in_flight / 2))
