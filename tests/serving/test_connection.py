"""A stream whose caller takes no more events: broken off, its work given up, its places free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from v2flow_engine.serving.connection import EventStream


def test_a_caller_who_reads_nothing_holds_no_places() -> None:
    ended: list[str] = []

    async def events() -> AsyncIterator[bytes]:
        try:
            for number in range(5):
                yield b"data: %d\n\n" % number
        finally:
            ended.append("work")

    async def scenario() -> list[bytes]:
        sent: list[bytes] = []

        async def send(message: Message) -> None:  # the connection's buffer is full after two
            sent.append(message.get("body", b""))
            if len(sent) == 4:
                await asyncio.Event().wait()

        async def receive() -> Message:
            raise AssertionError("a stream leaves the connection to its iterator")

        stream = EventStream(events(), lambda: ended.append("places"), 0.2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream({"type": "http"}, receive, send), 30)
        return sent

    assert asyncio.run(scenario()) == [b"", b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]
    assert ended == ["work", "places"]
