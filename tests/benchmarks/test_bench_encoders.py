"""The encoder benchmark on a small picture: what it measures, and that nothing lossy passes for a PNG."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.bench_encoders import main


def test_every_format_is_measured_and_png_is_lossless(tmp_path: Path, capsys) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert main(["--sizes", "32", "--pictures", str(tmp_path), "--repeats", "1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])["32x32"]
    assert {"v2flow_engine", "pillow, level 1"} <= report["png"].keys()
    assert all(found["lossless"] for found in report["png"].values())
    assert not any(found["lossless"] for found in report["jpeg"].values())


def test_a_missing_folder_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pictures", "missing"]) == 2
    assert "missing does not exist" in capsys.readouterr().err
