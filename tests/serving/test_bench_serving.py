"""The serving benchmark against a real server: its table and document; percentiles and failures as told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bench_serving import main
from benchmarks.serving_load import Outcome, percentiles, told
from tests.serving.conftest import Live
from v2flow_engine.checkpoint import ModelFolder


def test_it_prints_a_table_and_one_document(live: Live, folder: ModelFolder, capsys) -> None:
    few = ["--clients", "1", "3", "--requests", "2", "--loads", "0.5", "--arrivals", "4", "--direct", "0"]
    assert main(["--model", str(folder.path), "--url", live.url, *few]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    rows = report["closed"] | report["open"]
    assert list(rows) == ["1 client", "3 clients", "0.5 of the best"]
    for name, row in rows.items():
        assert row["answered"] == row["requests"] > 0 and row["images_per_second"] > 0
        assert 0 < row["first_partial"]["p50"] <= row["image"]["p95"] <= row["image"]["p99"]
        assert any(line.startswith(name) for line in table)
    lone = report["lone"]
    parts = [lone[name] for name in ("stages", "waiting", "asking", "file")]
    assert min(parts) > 0 and sum(parts) < lone["request"]
    assert lone["overhead"] == pytest.approx(1 - lone["stages"] / lone["request"])


def test_what_came_of_requests() -> None:
    outcomes = [Outcome(200, 0.5, 1.0), Outcome(0), Outcome(503, error="gone"), Outcome(200, None, 3.0)]
    found = told(outcomes, 4.0)
    assert (found["answered"], found["requests"], found["images_per_second"]) == (2, 4, 0.5)
    assert found["first_partial"] == {"p50": 0.5, "p95": 0.5, "p99": 0.5}
    assert percentiles([float(i) for i in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([]) is None


def test_mistakes_are_told_in_one_line(folder: ModelFolder, tmp_path: Path, capsys) -> None:
    for options, message in (
        (["--clients", "0"], "must be positive"),
        (["--url", "http://127.0.0.1:1", "--chaos", "3"], "does not go with --url"),
    ):
        assert main(["--model", str(folder.path), *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["--model", str(tmp_path / "none")]) == 2
    assert "no model" in capsys.readouterr().err
