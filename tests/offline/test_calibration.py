"""What the calibration measures."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from v2flow_engine.offline import feed
from v2flow_engine.offline.feed import Feed, FeedState


def state_after(parts: list[tuple[str, float, float]], monkeypatch: pytest.MonkeyPatch) -> FeedState:
    """Of a feed whose batches of four went through a pool, each at a time: (pool, start, end)."""
    clock = iter([moment for _, start, end in parts for moment in (start, end)] + [parts[-1][2]])
    monkeypatch.setattr(feed, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    ends = {"tokens": "between", "decoder": "done"}

    async def run() -> FeedState:
        book = Feed()
        for number, (pool, _, _) in enumerate(parts):
            await book.put(number, b"batch", 4)
            await book.note(number, pool, "worker")
            await book.note(number, ends[pool], "worker")
        return await book.state()

    return asyncio.run(run())


def test_the_first_batch_of_a_pool_warms_up_and_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [("tokens", 0.0, 9.0), ("decoder", 9.0, 17.0), ("tokens", 20.0, 20.5), ("tokens", 21.0, 21.3)]
    state = state_after(parts, monkeypatch)
    assert state.seconds_per_picture("tokens") == pytest.approx(0.8 / 8)
    assert state.seconds_per_picture("decoder") == pytest.approx(8.0 / 4)  # there is no other
    assert FeedState().seconds_per_picture("tokens") == 0.0
