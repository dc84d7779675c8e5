"""The streaming benchmark's own parts: rows in every format, what a log says, memory by process, and what is growth.

The whole of it takes minutes: see docs/offline.md.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.bench_streaming import Moment, growth, main, progress
from benchmarks.long_input import WRITERS, long_rows
from benchmarks.process_memory import ProcessMemory
from v2flow_engine.offline.sources import open_source


@pytest.mark.parametrize("input_format", WRITERS)
def test_every_format_holds_the_same_prompts(tmp_path: Path, input_format: str) -> None:
    path = tmp_path / "rows"
    WRITERS[input_format](path, 30, 10)
    prompts = [row.columns["prompt"] for row in open_source(str(path), input_format).rows()]
    assert prompts == [row["prompt"] for row in long_rows(30, 10)]
    assert len(set(prompts)) == 30


def test_the_last_line_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "40 images through Ray Data\n3/40 images, 1 s, starting\n17/40 images, 2 s, 8.50 images/s\n17/4"
    )
    assert progress(log) == 17
    log.write_text("")
    assert progress(log) == 0


def test_growth_is_what_comes_after_the_first_fifth() -> None:
    pictures = [0, 10, 15, 20, 60, 100]
    sizes = {"driver": [900, 100, 110, 120, 121, 115], "feed": [0, 50, 50, 40, 50, 30]}
    moments = [
        Moment(0.0, count, {"resident": {name: values[i] for name, values in sizes.items()}})
        for i, count in enumerate(pictures)
    ]
    found = growth(moments, "resident", 100)
    assert found["driver"] == {"early": 110, "late": 121, "ratio": 1.1}
    assert found["feed"] == {"early": 50, "late": 50, "ratio": 1.0}
    assert found["all"] == {"early": 160, "late": 171, "ratio": 1.069}


def test_memory_is_that_of_the_process_and_its_children() -> None:
    wait = "import sys; held = bytes(range(256)) * 400_000; print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", wait, "DecoderActor"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        memory = ProcessMemory(psutil.Process()).by_role()
        child.communicate()
    assert memory["resident"]["driver"] > memory["own"]["driver"] > 0
    assert 102_400_000 <= memory["own"]["decoder actors"] < 150_000_000


def test_mistakes_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "5"]) == 2
    assert "--rows must be 100 at least" in capsys.readouterr().err
