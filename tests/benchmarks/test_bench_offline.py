"""The offline benchmark on a tiny model, without Ray: real ways in processes of their own; what a job's metrics say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
from benchmarks.bench_offline import main
from benchmarks.offline_ways import steady
from tests.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def measured(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """The ways of the document, each of which has a line in the table, too."""
    assert main(argv) == 0
    *table, last = capsys.readouterr().out.splitlines()
    ways = json.loads(last)["ways"]
    assert [name for name in ways if any(line.startswith(name) for line in table)] == list(ways)
    return ways


def test_it_prints_a_table_and_one_document(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"plain loop": 2, "single process": 5}
    options = ["--images", "5", "--plain-images", "2", "--ways", *counts]
    ways = measured(capsys, "--model", str(model), *options)
    assert {name: way["images"] for name, way in ways.items()} == counts
    assert all(way["images_per_second"] > 0 and way["loading"] > 0 for way in ways.values())
    plain, single = (way["images_per_second"] for way in ways.values())
    assert [way["ratio"] for way in ways.values()] == [1, pytest.approx(single / plain)]


def test_only_the_time_in_which_both_pools_work_counts() -> None:
    history = [
        {"seconds": float(s), "made": m} for s, m in ((1, 0), (20, 10), (25, 60), (30, 110), (31, 110))
    ]
    metrics = {"history": history, "made": 110, "seconds": 31.0, "seconds_to_first_picture": 19.5}
    timings = [{"tokens": 0.09, "decoder": 0.04}] * 110
    found = steady(metrics, timings, {"tokens": 1, "decoder": 1})
    assert (found.images, found.seconds, found.rate) == (100, 10.0, 10.0)
    assert found.overhead == pytest.approx(0.1)
    assert found.middle == 10.0  # from 60 pictures on, at 25 s, to the last 50, at 30 s
    assert steady(metrics, timings, {"tokens": 2, "decoder": 1}).overhead == pytest.approx(0.55)


def test_mistakes_are_told_in_one_line(model: Path, tmp_path: Path, capsys) -> None:
    assert main(["--model", str(model), "--images", "0"]) == 2
    assert "must be positive" in capsys.readouterr().err
    assert main(["--model", str(tmp_path / "none")]) == 2
    assert "no model" in capsys.readouterr().err
