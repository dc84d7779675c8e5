"""Memory does not grow with the input: every reader, and the driver over 30,000 rows.

A million rows through the whole pipeline are a command: benchmarks/bench_streaming.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from benchmarks.long_input import WRITERS
from v2flow_engine.offline.sources import open_source

ROWS = 30_000
GROWTH = 1.1
DRIVER_GROWTH = 1.05  # of a process of 260 MB: about 400 bytes kept of each row are found


def peak_of_reading(path: Path, input_format: str) -> int:
    """Bytes that Python, and Arrow through Python's files, held at most."""
    tracemalloc.start()
    try:
        for _ in open_source(str(path), input_format).rows():
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("input_format", "count"), [("jsonl", 1000), ("csv", 1000), ("parquet", 4000), ("webdataset", 1000)]
)
def test_a_longer_file_takes_no_more_memory_to_read(tmp_path: Path, input_format: str, count: int) -> None:
    peaks = []
    for rows in (10, count, 3 * count):  # the first one has all imported that there is to import
        path = tmp_path / f"{rows}.{input_format}"
        WRITERS[input_format](path, rows, 500)
        peaks.append(peak_of_reading(path, input_format))
    assert peaks[2] <= GROWTH * peaks[1] + 100_000


def test_a_long_job_takes_no_more_memory_than_a_short_one(model_dir: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    WRITERS["jsonl"](rows, ROWS, 100)
    command = [
        sys.executable,
        "-m",
        "tests.offline.long_job",
        str(model_dir),
        str(rows),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout.splitlines()[-1])
    resident = document["resident"]
    assert resident[-1][0] == ROWS
    early = max(size for pictures, size in resident if pictures <= ROWS // 5)
    late = max(size for pictures, size in resident if pictures > ROWS // 5)
    assert late <= DRIVER_GROWTH * early
    assert document["resumed"] <= DRIVER_GROWTH * early
    assert document["todo"] == 0
