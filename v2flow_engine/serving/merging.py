"""Several async iterators -> one, in the order in which their items come. An error in one ends them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _End:
    error: BaseException | None


async def merged(sources: Sequence[AsyncIterator[Item]]) -> AsyncIterator[Item]:
    """Leaving early cancels all of them, and waits until they have let go."""
    if len(sources) == 1:
        async with aclosing(sources[0]) as only:
            async for item in only:
                yield item
        return
    arrived: asyncio.Queue[Item | _End] = asyncio.Queue()

    async def pump(source: AsyncIterator[Item]) -> None:
        try:
            async with aclosing(source) as own:
                async for item in own:
                    arrived.put_nowait(item)
        except Exception as error:
            arrived.put_nowait(_End(error))
        else:
            arrived.put_nowait(_End(None))

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                running -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
