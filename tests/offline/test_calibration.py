"""What the calibration measures, and a job that is shared out by it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from v2flow_engine.cli import main
from v2flow_engine.offline import cluster, feed, sizing
from v2flow_engine.offline.feed import Feed, FeedState
from v2flow_engine.offline.sizing import Cluster


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


class ThreePlaces(Cluster):
    """Two CPUs that are said to keep three actors busy, of a thread each."""

    places = 3


@pytest.mark.usefixtures("ray_running")
def test_the_places_are_shared_by_what_was_measured(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Real engines, three places, small batches. Sixteen rounds of twenty steps are more work than sixteen tokens."""
    for name, value in {"MAX_BATCH": 4, "CALIBRATION_BATCHES": 3, "MIN_CALIBRATED_BATCHES": 5}.items():
        monkeypatch.setattr(sizing, name, value)
    monkeypatch.setattr(cluster, "cluster_resources", lambda: ThreePlaces(cpus=2, node_cpus=1))
    out = tmp_path / "out"
    argv = ["generate", "--model", str(model_dir), "--prompt", "a cat", "--n", "24", "--out", str(out)]
    assert main([*argv, "--rounds", "16", "--flow-steps", "20"]) == 0
    said = capfd.readouterr().err
    assert "calibrating on the first 12 images, one actor of each kind" in said
    metrics = json.loads((out / "metrics.json").read_text())
    (note,) = metrics["notes"]
    assert note in said
    found = re.fullmatch(
        r"measured ([\d.]+) ms of a token actor and ([\d.]+) ms of a decoder actor for an image: "
        r"1 token actors, 2 decoder actors",
        note,
    )
    assert found, note
    assert 0 < 2 * float(found[1]) < float(found[2])
    assert metrics["actors"] == {"tokens": 1, "decoder": 2}
    ids = [json.loads(line)["id"] for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert ids == list(range(24))
