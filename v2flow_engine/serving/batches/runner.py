"""The unfinished batches of a folder -> work on them, in the one server of several that owns the folder."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from v2flow_engine.serving.batches.run import BatchRun

if TYPE_CHECKING:
    from v2flow_engine.serving.server import Server

logger = logging.getLogger(__name__)
AT_ONCE = 8  # batches; they take turns for the places that `Admission` has for them
TRY_AGAIN_SECONDS = 30.0  # after a full disk, say
LOOK_SECONDS = 1.0  # how often is looked for batches that another process made, and for the owner's place


class BatchRunner:
    """Works on the oldest batches of a server's folder."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._news = asyncio.Event()
        self._runs: dict[str, asyncio.Task[None]] = {}

    def look(self) -> None:
        """There may be a new batch."""
        self._news.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work for the length of a block; what is under way at its end is left to whoever comes next."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            try:
                with self.server.batches.ownership() as owned:
                    if owned:
                        await self._own()
            except OSError:  # the folder is gone: it may come back
                logger.exception("batches cannot be looked after")
            finally:
                await self._stop()
            await asyncio.sleep(LOOK_SECONDS)

    async def _own(self) -> None:
        while True:
            self._news.clear()
            self._runs = {name: task for name, task in self._runs.items() if not task.done()}
            for batch_id in await asyncio.to_thread(self.server.batches.todo):
                if batch_id not in self._runs and len(self._runs) < AT_ONCE:
                    self._runs[batch_id] = asyncio.create_task(self._work_on(batch_id))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), LOOK_SECONDS)

    async def _work_on(self, batch_id: str) -> None:
        """Until it is over, or for now: what is not over will be found again."""
        try:
            batch = await asyncio.to_thread(self.server.batches.load, batch_id)
            if batch is not None and not batch.is_over:
                await BatchRun(self.server, batch).run()
        except Exception:
            logger.exception("batch %s cannot be worked on now", batch_id)
            await asyncio.sleep(TRY_AGAIN_SECONDS)
        else:
            self._news.set()

    async def _stop(self) -> None:
        runs, self._runs = list(self._runs.values()), {}
        for task in runs:
            task.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
