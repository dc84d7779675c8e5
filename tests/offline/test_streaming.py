"""Memory does not grow with the input: every reader, the driver over 30,000 rows, and what Ray is given at once.

A million rows through the whole pipeline are a command: benchmarks/bench_streaming.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.long_input import WRITERS
from v2flow_engine.checkpoint import open_model
from v2flow_engine.generation.image_request import ImageRequest, plan_requests
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.offline.actors import ActorConfig
from v2flow_engine.offline.job import BATCHES_PER_ACTOR, MAX_LOST_BATCHES, RayRun
from v2flow_engine.offline.sizing import Sizing
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


@pytest.mark.usefixtures("ray_running")
def test_the_input_is_read_as_pictures_are_finished(model_dir: Path) -> None:
    folder, each = open_model(model_dir), 4
    parameters = GenerationParameters.resolve(folder, rounds=1, flow_steps=1)
    requests = iter(plan_requests(["a cat"], parameters, n=200, seed=1))
    read = 0

    def counted() -> Iterator[ImageRequest]:
        nonlocal read
        for request in requests:
            read += 1
            yield request

    run = RayRun(ActorConfig(str(folder.path), "cpu", "png", {}, guided=True))
    sizing = Sizing(1, 1, cpus_per_actor=0.5, gpus_per_actor=0.0, rows_per_batch=each, threads=1)
    ahead, under_way = [], []
    for number, _ in enumerate(run.images(counted(), sizing), start=1):
        ahead.append(read - number)
        under_way.append(len(run.outstanding))
    assert len(ahead) == 200
    most = (2 * BATCHES_PER_ACTOR + MAX_LOST_BATCHES + 1) * each
    assert max(ahead) <= most < 100
    assert max(under_way) <= most
