"""The feature network of FID: it learns what the records say, and FID grows as pictures get worse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.emoji.conftest import tiny_packages  # noqa: F401 (a fixture)
from v2flow_engine.cli import main
from v2flow_engine.errors import DataError
from v2flow_engine.evaluation.features import FEATURES, FeatureNet, fid, load_features


def test_training_learns_what_the_records_say(
    tiny_packages: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    data, run = tmp_path / "data", tmp_path / "features"
    options = ["--packages", str(tiny_packages), "--images", "300", "--size", "64x64"]
    assert main(["data", "emoji", "--out", str(data), *options]) == 0
    steps = [
        "loop.steps=150",
        "loop.sample_every=150",
        "loop.log_every=50",
        "loop.bf16=false",
        "loop.warmup=5",
    ]
    overrides = [part for step in steps for part in ("--set", step)]
    assert (
        main(["train", "features", "--data", str(data), "--out", str(run), "--device", "cpu", *overrides])
        == 0
    )
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["heldout_background"] > 0.7  # of twelve colours
    net, digest = load_features(run)
    assert len(digest) == 16 and not net.training


def test_fid_is_zero_for_the_same_pictures_and_grows_with_the_damage() -> None:
    rng = np.random.default_rng(0)
    pictures = [
        np.full((32, 32, 3), rng.integers(0, 256, 3), np.uint8) // 2
        + rng.integers(0, 64, (32, 32, 3), np.uint8)
        for _ in range(FEATURES + 40)
    ]
    net = FeatureNet({"label": 2}).eval()
    damaged = {
        noise: [
            np.clip(each + rng.normal(0, noise, each.shape), 0, 255).astype(np.uint8) for each in pictures
        ]
        for noise in (8, 64)
    }
    same, little, much = (fid(net, each, pictures) for each in (pictures, damaged[8], damaged[64]))
    assert abs(same) < 1e-3 * much and same < little < much
    with pytest.raises(DataError, match=f"more than {FEATURES} pictures, got 5"):
        fid(net, pictures[:5], pictures)


def test_pictures_without_attributes_and_folders_without_weights_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.training.tiny_run import write_squares

    data = write_squares(tmp_path / "squares")
    assert main(["train", "features", "--data", str(data), "--out", str(tmp_path / "run")]) == 2
    assert "no 'label'" in capsys.readouterr().err
    with pytest.raises(DataError, match="not a folder of `v2flow train features`"):
        load_features(tmp_path)
