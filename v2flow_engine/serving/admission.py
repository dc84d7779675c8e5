"""How many pictures this process has under way.

Interactive ones come in at once or not at all, those of batches when it is quiet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

from v2flow_engine.errors import QueueFullError
from v2flow_engine.pace import Pace

BESIDE_OTHERS = 4  # the share of their places that batches have while somebody waits for a picture


class Admission:
    """Only counts; the waiting of interactive pictures is done in the engines. All calls from one thread.

    Args:
        limit: interactive pictures; more are told when to come again.
        batch_limit: pictures of batches, beside the others; more wait here, first come, first served.
    """

    def __init__(self, limit: int, batch_limit: int) -> None:
        self.limit, self.batch_limit = limit, batch_limit
        self.under_way = self.batch_under_way = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
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
            self._let_in()

    @contextmanager
    def held(self, pictures: int) -> Iterator[ExitStack]:
        """As `enter`, but an answer that goes on after the block may take the places over, by `pop_all`."""
        with ExitStack() as places:
            places.enter_context(self.enter(pictures))
            yield places

    @asynccontextmanager
    async def enter_from_batch(self, pictures: int) -> AsyncIterator[None]:
        """Wait for places of a batch, and hold them for the length of a block.

        While interactive pictures are under way there are fewer of them, but always enough for one request.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (pictures, turn)
        self._waiting.append(place)
        self._let_in()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self.batch_under_way -= pictures
            else:
                with suppress(ValueError):  # it had been passed over already
                    self._waiting.remove(place)
            self._let_in()

    def _let_in(self) -> None:
        allowed = self.batch_limit
        if self.under_way:
            allowed = max(1, allowed // BESIDE_OTHERS)
        while self._waiting:
            pictures, turn = self._waiting[0]
            if self.batch_under_way and self.batch_under_way + pictures > allowed:
                return
            self._waiting.popleft()
            if not turn.cancelled():
                self.batch_under_way += pictures
                turn.set_result(None)
