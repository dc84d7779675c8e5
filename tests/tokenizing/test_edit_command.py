"""`v2flow edit` as a user runs it, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from v2flow_engine import cli
from v2flow_engine.images import read_metadata


@pytest.fixture
def place(tmp_path: Path, pictures: Path) -> Path:
    """cat.png (64 x 64), its masks, and cat.png with a transparent part."""
    hole = np.zeros((64, 64), dtype=np.uint8)
    hole[20:40, 20:40] = 255
    with Image.open(pictures / "a.png") as image:
        image.save(tmp_path / "cat.png")
        image.putalpha(Image.fromarray(255 - hole))
        image.save(tmp_path / "clear.png")
    Image.fromarray(hole).save(tmp_path / "mask.png")
    Image.fromarray(hole * 0).save(tmp_path / "black.png")
    Image.fromarray(hole[:60]).save(tmp_path / "short.png")
    return tmp_path


def run(model: Path, *options: object) -> int:
    return cli.main(["edit", "--model", str(model), *map(str, options)])


def test_pictures_manifest_and_sheet(model: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vllm")
    out = place / "out"
    options = ["--prompt", "a red apple", "--out", out, "--n", 2, "--seed", 5, "--rounds", 9]
    assert run(model, place / "cat.png", "--mask", place / "mask.png", *options) == 0
    captured = capsys.readouterr()
    # Before it stands what vLLM warns of, if it is loaded here for the first time.
    assert captured.out.splitlines()[-1] == f"made 2; see {out / 'index.html'}"
    assert "4 of 16 visual tokens are written anew, in 4 rounds" in captured.err
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [(line["id"], line["seed"], line["prompt"]) for line in lines] == [
        (0, 5, "a red apple"), (1, 6, "a red apple"),
    ]  # fmt: skip
    assert lines[0]["mask"] == str(place / "mask.png")
    original = np.asarray(Image.open(place / "cat.png"))
    for line in lines:
        metadata = read_metadata(out / line["file"])
        assert (metadata.prompt, metadata.seed) == ("a red apple", line["seed"])
        assert metadata.parameters == line["parameters"]
        assert (line["parameters"]["command"], line["parameters"]["rounds"]) == ("edit", 4)
        drawn = np.asarray(Image.open(out / line["file"]))
        changed = (drawn != original).any(axis=2)
        assert changed[20:40, 20:40].mean() > 0.9
        assert changed.sum() == changed[20:40, 20:40].sum()
    assert (out / "sheet.png").is_file()
    assert (out / "index.html").read_text().count("<img ") == 6


def test_the_images_own_transparency_is_a_mask(model: Path, place: Path) -> None:
    pytest.importorskip("vllm")
    out = place / "out"
    assert run(model, place / "clear.png", "--prompt", "a cat", "--out", out) == 0
    drawn = np.asarray(Image.open(out / "000000-clear.png"))
    original = np.asarray(Image.open(place / "cat.png"))
    changed = (drawn != original).any(axis=2)
    assert changed.any() and changed.sum() == changed[20:40, 20:40].sum()
    assert json.loads((out / "manifest.jsonl").read_text())["mask"] is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["cat.png", "--mask", "black.png"], "the mask is empty"),
        (["cat.png", "--mask", "short.png"], "the mask must have the image's size, 64x64, got 64x60"),
        (["cat.png"], "expected a mask, or an image with transparent parts"),
        (["cat.png", "--mask", "nowhere.png"], "nowhere.png is no picture that can be read"),
        (["nowhere.png", "--mask", "mask.png"], "nowhere.png is no picture that can be read"),
        (["cat.png", "--mask", "mask.png", "--prompt", " "], "the prompt is empty"),
        (["cat.png", "--mask", "mask.png", "--n", "0"], "n must be a whole number from 1"),
        (["cat.png", "--mask", "mask.png", "--rounds", "17"], "rounds must be a whole number from 1 to 16"),
        (["cat.png", "--mask", "mask.png", "--top-k", "-1"], "top_k"),
        (["cat.png", "--mask", "mask.png", "--size", "9x9"], "size '9x9' is not one of this model's"),
        (["cat.png", "--mask", "mask.png", "--out", "."], "holds files (black.png)"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    options: list[str],
    expected: str,
    model: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    assert run(model, "--prompt", "a cat", "--out", "out", *options) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert sorted(place.iterdir()) == before
