"""Which batches a worker died at work on, as the feed sees it."""

from __future__ import annotations

import asyncio

from v2flow_engine.offline.feed import Feed

Note = tuple[int, str, str, str]  # batch, stage, process, actor


def died_with(*notes: Note) -> list[int]:
    """Of a feed that was told these things of batches 0 and 1."""

    async def run() -> list[int]:
        book = Feed()
        for number in range(2):
            await book.put(number, b"batch", 4)
        for note in notes:
            await book.note(*note)
        return await book.died_with()

    return asyncio.run(run())


def test_a_batch_that_is_begun_by_the_next_process_of_its_actor_was_the_death_of_the_first() -> None:
    assert died_with((0, "tokens", "node:1", "a"), (0, "tokens", "node:2", "a")) == [0]
    assert died_with((0, "tokens", "node:1", "a")) == []  # under way


def test_the_retry_may_begin_with_the_batch_that_waited() -> None:
    assert died_with((0, "tokens", "node:1", "a"), (1, "tokens", "node:2", "a")) == [0]


def test_a_batch_that_was_ended_or_that_another_makes_is_not_suspected() -> None:
    assert died_with((0, "tokens", "node:1", "a"), (1, "tokens", "node:2", "b")) == []
    ended = (0, "between", "node:1", "")
    assert died_with((0, "tokens", "node:1", "a"), ended, (1, "tokens", "node:2", "a")) == []
    assert died_with((0, "tokens", "node:1", "a"), (0, "tokens", "node:2", "a"), ended) == []
    assert died_with((0, "tokens", "node:1", "a"), ended, (0, "decoder", "node:3", "b")) == []
