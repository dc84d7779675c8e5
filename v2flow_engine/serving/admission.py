"""How many pictures this process has under way: more than the limit are told when to come again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from v2flow_engine.errors import QueueFullError
from v2flow_engine.pace import Pace


class Admission:
    """Only counts; the waiting is done in the engines. All calls from one thread."""

    def __init__(self, limit: int) -> None:
        self.limit, self.under_way = limit, 0
        self._pace = Pace()

    @contextmanager
    def enter(self, pictures: int) -> Iterator[None]:
        """Hold places for the length of a block. Raises `QueueFullError` if there are not as many."""
        if self.under_way + pictures > self.limit:
            raise QueueFullError(
                f"{self.under_way} pictures are under way, {pictures} more do not fit into {self.limit}",
                retry_after=self._pace.seconds_until_room(),
            )
        self.under_way += pictures
        try:
            yield
        finally:
            self._pace.one_left(self.under_way)
            self.under_way -= pictures
