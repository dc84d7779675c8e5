"""A stage keeps few of oneDNN's kernels, whatever shapes come: seen from oneDNN's own log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_model import build_tiny_model
from v2flow_engine.serving.kernel_cache import KEPT, VARIABLE

SHAPES = KEPT + 8
STAGE = f"""
import sys
import torch
from v2flow_engine.checkpoint import open_model
from v2flow_engine.serving.settings import ServerSettings
from v2flow_engine.serving.stages import start_decoder_worker

def convolve(engine):
    layer = torch.nn.Conv2d(16, 16, 3, padding=1)
    for rows in [*range(2, {SHAPES} + 2), {SHAPES} + 1, 2]:  # one row alone may not be for oneDNN
        print("rows", rows, flush=True)
        layer(torch.zeros(rows, 16, 8, 8))
    print("rows 0", flush=True)

folder = open_model(sys.argv[1])
worker = start_decoder_worker(folder, ServerSettings(model_dir=str(folder.path), image_dir=sys.argv[2], device="cpu"))
with torch.inference_mode():
    worker.call(convolve).result(120)
worker.close()
"""


def kernels_made(tmp_path: Path, **environment: str) -> list[bool]:
    """Whether oneDNN made a kernel, for each number of rows in turn."""
    own = {name: value for name, value in os.environ.items() if name != VARIABLE}
    own |= {"ONEDNN_VERBOSE": "2", "OMP_NUM_THREADS": "1", **environment}
    command = [
        sys.executable,
        "-c",
        STAGE,
        str(build_tiny_model(tmp_path / "model")),
        str(tmp_path / "images"),
    ]
    log = subprocess.run(command, env=own, check=True, stdout=subprocess.PIPE, text=True).stdout
    parts = [part for part in log.split("rows ")[1:-1]]
    if "convolution" not in log:
        pytest.skip("convolutions are not computed by oneDNN here")
    return [
        any("cache_miss" in line and ",convolution," in line for line in part.splitlines()) for part in parts
    ]


def test_kernels_of_shapes_long_past_are_forgotten(tmp_path: Path) -> None:
    *first_time, latest_again, oldest_again = kernels_made(tmp_path)
    assert len(first_time) == SHAPES and all(first_time)
    assert not latest_again
    assert oldest_again


def test_who_sets_the_variable_has_decided(tmp_path: Path) -> None:
    *_, latest_again, oldest_again = kernels_made(tmp_path, **{VARIABLE: "1024"})
    assert not latest_again and not oldest_again
