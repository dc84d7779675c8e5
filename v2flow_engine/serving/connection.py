"""An async iterator that works for a caller -> the same, given up when the caller leaves or the time is over.

Only this reads from the connection after the body, so a body must have been read before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Item = TypeVar("Item")
_END = object()


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


async def while_connected(
    receive: Receive, items: AsyncIterator[Item], seconds: float
) -> AsyncIterator[Item]:
    """Raises `ClientLeftError` when the caller has left, `TimeoutError` after `seconds`; either ends the work."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    left = asyncio.create_task(_until_left(receive))
    try:
        async with aclosing(items) as own:
            while (item := await _next_or_end(own, left, end - loop.time())) is not _END:
                yield item
    finally:
        await _cancelled(left)


async def _next_or_end(items: AsyncIterator[Item], left: asyncio.Task[None], seconds: float) -> Item:
    step = asyncio.create_task(_next(items))
    try:
        done, _ = await asyncio.wait(
            {step, left}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED
        )
        if step in done:
            return step.result()
        raise ClientLeftError if left in done else TimeoutError
    finally:
        await _cancelled(step)


async def _next(items: AsyncIterator[Item]) -> Item:
    return await anext(items, _END)  # type: ignore[return-value]


async def _cancelled(task: asyncio.Task) -> None:
    """Cancel a task, if it is not done, and wait until it has let go of what it held."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not report it as forgotten


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events. Unlike starlette's own, it leaves watching the connection to the iterator.

    Args:
        done: called when the stream is over, however it ends.
        seconds: in which a caller must take an event. One who does not would hold places for ever; the answer is
            broken off.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], done: Callable[[], None], seconds: float) -> None:
        self.events, self.done, self.seconds = events, done, seconds
        self.status_code, self.background = 200, None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self.events) as events:
                async for event in events:
                    async with asyncio.timeout(self.seconds):
                        await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.done()
