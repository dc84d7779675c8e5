"""`v2flow report`: one page for finished and unfinished jobs, of files and shards, with nothing from the network."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.offline.pictures import MODEL, finished, picture, png
from tests.offline.test_sheet import HOSTILE, Page
from v2flow_engine.cli import main
from v2flow_engine.offline.metrics import METRICS, Metrics, earlier_runs, read_metrics
from v2flow_engine.offline.planning import BadRow
from v2flow_engine.offline.report.charts import line_chart, rates, round_up
from v2flow_engine.offline.report.collect import summarize
from v2flow_engine.offline.sink import OutputFormat, open_sink
from v2flow_engine.offline.sources import SourceRow


def fill(out: Path, count: int, container: str = "png", failed: int = 0, prompt: str = "a cat") -> None:
    """A folder as a job leaves it, with its metrics."""
    metrics = Metrics(count + failed, 0, {"tokens": 1, "decoder": 1}, earlier=earlier_runs(out))
    with open_sink(out, OutputFormat.of(container, shard_pictures=4), MODEL, pictures=count) as sink:
        for i in range(count):
            sink.write(picture(i, prompt, label=sink.output.label), finished(i, png(i % 256)))
            metrics.advance(len(png(i % 256)))
            metrics.sample()
        for i in range(failed):
            row = SourceRow(i + 7, f"rows.csv, line {i + 7}", {"prompt": prompt})
            sink.fail(BadRow(row, f"rows.csv, line {i + 7}: n must be positive", count + i, 1))
    metrics.failed = failed
    metrics.write(out)


def report(out: Path, *options: str) -> str:
    assert main(["report", str(out), *options]) == 0
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("container", ["png", "webdataset", "parquet"])
def test_every_kind_of_output_has_its_page(tmp_path: Path, container: str) -> None:
    fill(tmp_path / "out", 10, container, failed=2)
    text = report(tmp_path / "out", "--samples", "4")
    page = Page(text)
    assert len(page.sources) == 4 and all(each.startswith("data:image/webp;base64,") for each in page.sources)
    assert page.links == [] and page.scripts == 0
    assert "http://" not in text and "https://" not in text
    for words in ("10 of 12 pictures", "n must be positive", "tiny", "images/s", "Busy actors"):
        assert words in page.text


def test_words_of_the_job_are_text(tmp_path: Path) -> None:
    fill(tmp_path / "out", 2, prompt=HOSTILE, failed=1)
    page = Page(report(tmp_path / "out"))
    assert page.text.count(HOSTILE) == 3
    assert page.scripts == 0


def test_samples_are_spread_and_few_in_memory(tmp_path: Path) -> None:
    fill(tmp_path / "out", 333)
    summary = summarize(tmp_path / "out", 10)
    places = [entry.place for entry in summary.samples]
    assert len(places) == 10 and places == sorted(set(places))
    assert places[0] == 0 and places[-1] >= 280
    assert max(b - a for a, b in itertools.pairwise(places)) <= 64
    assert summary.pictures == 333 and summary.settings["size"] == {"64x64": 333}


def test_reasons_are_counted_without_what_names_the_row(tmp_path: Path) -> None:
    fill(tmp_path / "out", 1, failed=5)
    summary = summarize(tmp_path / "out", 1)
    assert summary.failed == 5
    assert sum(summary.reasons.values()) == 5
    assert len(summary.errors) == 5


def test_earlier_runs_are_remembered(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, 3)
    fill(out, 6)
    content = read_metrics(out)
    assert [run["made"] for run in content["earlier"]] == [3]
    assert "history" not in content["earlier"][0] and content["made"] == 6
    assert Page(report(out)).text.count("1 tokens, 1 decoder") == 2


def test_an_unfinished_job_says_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, 3)
    metrics = json.loads((out / METRICS).read_text())
    (out / METRICS).write_text(json.dumps(metrics | {"pictures": 9, "stopped": "interrupted"}))
    assert "3 of 9 pictures, 6 still to make, the last run was interrupted" in Page(report(out)).text
    (out / METRICS).write_text("{")  # as a disk that was full leaves it
    assert "no metrics.json" in Page(report(out)).text
    next(out.glob("*.png")).write_bytes(b"broken")
    assert "cannot be read" in Page(report(out)).text


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        ([str(tmp_path / "none")], "no such folder"),
        ([str(tmp_path)], "v2flow generate did not write it"),
        ([str(tmp_path), "--samples", "-1"], "between 0 and 1000, got -1"),
    ):
        assert main(["report", *options]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_charts() -> None:
    assert [round_up(value) for value in (0, 0.3, 1, 1.2, 7, 130)] == [1, 0.5, 1, 2, 10, 200]
    assert rates([(0.0, 0), (1.0, 2), (2.0, 6)], window=1.0) == [(1.0, 2.0), (2.0, 4.0)]
    chart = line_chart("<b>", {"one": [(0.0, 0.0), (10.0, 4.0)], "two": []}, "images/s")
    assert chart.count("<polyline") == 2 and "<b>" not in chart
