"""The three commands as a user runs them, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from v2flow_engine import cli
from v2flow_engine.images import read_metadata
from v2flow_engine.tokenizing.codes_file import read_codes_file


def manifest(out: Path) -> list[dict]:
    """The lines of a manifest."""
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def files(out: Path) -> dict[str, bytes]:
    """The pictures of a folder, the sheet left out."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("0*.png"))}


def distance(first: Path, second: Path) -> int:
    """The largest difference of a pixel between two pictures."""
    with Image.open(first) as one, Image.open(second) as two:
        return int(np.abs(np.asarray(one).astype(int) - np.asarray(two)).max())


def run(command: str, model: Path, *options: object) -> int:
    """Run a command; returns its exit status."""
    return cli.main([command, "--model", str(model), *map(str, options)])


def test_encode_and_decode_again_is_reconstruct(model: Path, pictures: Path, tmp_path: Path) -> None:
    options = ["--fit", "pad", "--pad-color", "#102030"]
    decoder = ["--seed", 5, "--flow-steps", 2]
    codes = tmp_path / "codes.parquet"
    assert run("encode", model, pictures, "--out", codes, *options) == 0
    assert run("reconstruct", model, pictures, "--out", tmp_path / "direct", *options, *decoder) == 0
    assert run("reconstruct", model, "--codes", codes, "--out", tmp_path / "codes", *decoder) == 0
    direct, decoded = files(tmp_path / "direct"), files(tmp_path / "codes")
    assert list(direct) == ["000000-a.png", "000001-b.png", "000002-c.png"]
    assert decoded == direct  # pictures and metadata, to the byte
    assert (tmp_path / "codes" / "index.html").read_text().count("<img ") == 3
    rows = read_codes_file(codes)
    assert [(row.origin.width, row.origin.height) for row in rows] == [(64, 64), (90, 70), (40, 100)]
    assert [row.origin.path for row in rows] == [str(pictures / name) for name in ("a.png", "b.png", "c.jpg")]
    assert {(row.origin.size, row.origin.fit, row.origin.pad_color) for row in rows} == {
        ("64x64", "pad", "#102030")
    }


def test_reconstruct_writes_pictures_manifest_and_sheet(model: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    assert run("reconstruct", model, pictures / "*.png", "--out", out, "--seed", 7, "--rounds", 3) == 0
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("0")) == [
        "index.html",
        "manifest.jsonl",
        "sheet.png",
    ]
    first, second = manifest(out)
    assert (second["id"], second["seed"], second["file"]) == (1, 8, "000001-b.png")
    assert (second["width"], second["height"]) == (90, 70)
    for line in (first, second):
        assert 0 < line["tokenizer_psnr"] < 60
        assert 0 < line["autoencoder_psnr"] < 60
        assert line["bytes"] == (out / line["file"]).stat().st_size
    metadata = read_metadata(out / second["file"])
    assert (metadata.seed, metadata.parameters) == (8, second["parameters"])
    assert metadata.parameters["source"] == "b.png"
    assert {"model": "tiny", "size": "64x64", "rounds": 3, "flow_steps": 3, "fit": "crop"}.items() <= (
        metadata.parameters.items()
    )
    assert (out / "index.html").read_text().count("<img ") == 6


def test_the_same_seed_gives_the_same_bytes_whatever_the_batch(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    for name, options in {
        "one": (),
        "again": (),
        "small": ("--batch-size", 1),
        "other": ("--seed", 9),
    }.items():
        assert run("reconstruct", model, pictures, "--out", tmp_path / name, *options) == 0
    assert files(tmp_path / "one") == files(tmp_path / "again")
    for name in files(tmp_path / "one"):
        assert distance(tmp_path / "one" / name, tmp_path / "small" / name) <= 1
        assert distance(tmp_path / "one" / name, tmp_path / "other" / name) > 1


def test_variations_share_codes_and_differ_in_noise(model: Path, pictures: Path, tmp_path: Path) -> None:
    for name, batch in {"out": 16, "small": 2}.items():
        options = ["--n", 3, "--seed", 5, "--batch-size", batch]
        assert run("variations", model, pictures, "--out", tmp_path / name, *options) == 0
    lines = manifest(tmp_path / "out")
    assert [(line["image"], line["variation"], line["seed"]) for line in lines] == [
        (image, v, 5 + 3 * image + v) for image in range(3) for v in range(3)
    ]
    for line in lines:
        assert distance(*(tmp_path / name / line["file"] for name in ("out", "small"))) <= 1
    assert len({line["sha256"] for line in lines}) == 9
    # Each is what the codes of its image give with its seed.
    assert run("encode", model, pictures, "--out", tmp_path / "codes.parquet") == 0
    decoded = tmp_path / "decoded"
    assert (
        run("reconstruct", model, "--codes", tmp_path / "codes.parquet", "--out", decoded, "--seed", 8) == 0
    )
    assert distance(tmp_path / "out" / "000000-a.png", decoded / "000000-a.png") > 1
    assert distance(tmp_path / "out" / "000003-b.png", decoded / "000000-a.png") > 1
    assert run("reconstruct", model, pictures / "b.png", "--out", tmp_path / "b", "--seed", 8) == 0
    assert distance(tmp_path / "out" / "000003-b.png", tmp_path / "b" / "000000-b.png") <= 1
    assert (tmp_path / "out" / "index.html").read_text().count("<img ") == 12


@pytest.mark.parametrize("command", ["encode", "reconstruct", "variations"])
def test_an_unreadable_image_among_good_ones_is_told_and_left_out(
    command: str, model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    images = [pictures / "a.png", tmp_path / "broken.png", tmp_path / "missing.png", pictures / "b.png"]
    out = tmp_path / ("codes.parquet" if command == "encode" else "out")
    assert run(command, model, *images, "--out", out) == 1
    told = capsys.readouterr().err.splitlines()[-2:]
    assert told[0].endswith("broken.png is no picture that can be read: an unknown format")
    assert told[1].endswith("missing.png is no picture that can be read: No such file or directory")
    if command == "encode":
        assert [row.origin.id for row in read_codes_file(out)] == [0, 3]
    if command == "reconstruct":
        # The others have the seeds that they have without it: an image's own place counts.
        assert [(line["id"], line["seed"]) for line in manifest(out)] == [(0, 0), (3, 3)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["{tmp}/broken.png"], "broken.png is no picture that can be read: an unknown format"),
        (["{tmp}/broken.png", "{tmp}/missing.png"], "an unknown format (nor can 1 more)"),
        (["{tmp}/empty"], "empty holds no images"),
        (["{tmp}/*.gif"], "no file matches"),
        (["{images}", "--size", "48x48"], "size '48x48' is not one of this model's: 64x64"),
        (["{images}", "--fit", "squeeze"], "invalid choice: 'squeeze'"),
        (["{images}", "--pad-color", "snowy"], "got 'snowy'"),
        (["{images}", "--batch-size", "0"], "--batch-size must be a whole number from 1"),
        (["{images}", "--out", "{tmp}/broken.png/out"], "cannot be created"),
        (["{images}", "--model", "nobody"], "no model 'nobody'"),
        ([], ""),
    ],
)
@pytest.mark.parametrize("command", ["encode", "reconstruct", "variations"])
def test_a_mistake_is_one_line_status_2_and_leaves_nothing(
    command: str,
    options: list[str],
    expected: str,
    model: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    given = [option.format(tmp=tmp_path, images=pictures) for option in options]
    assert run(command, model, "--out", tmp_path / "out", *given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("v2flow: ")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.png", "empty"]


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        ("reconstruct", ["{images}", "--rounds", "17"], "rounds must be a whole number from 1 to 16"),
        ("reconstruct", ["{images}", "--seed", "-1"], "seed must be a whole number from 0"),
        ("reconstruct", ["{images}", "--codes", "some.parquet"], "expected images or --codes, got both"),
        ("reconstruct", [], "expected images or --codes, got neither"),
        ("reconstruct", ["--codes", "some.parquet", "--fit", "pad"], "--fit is for images"),
        ("reconstruct", ["--codes", "some.parquet"], "some.parquet is no Parquet file"),
        ("reconstruct", ["{images}", "--out", "{images}"], "holds files (a.png)"),
        ("variations", ["{images}", "--n", "0"], "--n must be a whole number from 1"),
        ("variations", ["{images}", "--decoder-guidance", "-1"], "decoder_guidance must be a number"),
        ("variations", ["{images}", "--seed", str(2**63 - 5)], "seed of the last picture"),
        ("encode", ["{images}", "--out", "{images}"], "is a folder"),
        ("encode", ["{images}", "--seed", "1"], "--seed"),
    ],
)
def test_mistakes_of_single_commands(
    command: str,
    options: list[str],
    expected: str,
    model: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [option.format(images=pictures) for option in options]
    assert run(command, model, "--out", tmp_path / "out", *given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert list(tmp_path.iterdir()) == []


def test_codes_of_another_codebook_are_refused(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.tiny_model import build_tiny_model

    other = build_tiny_model(tmp_path / "other", seed=1)
    codes = tmp_path / "codes.parquet"
    assert run("encode", other, pictures, "--out", codes) == 0
    assert run("reconstruct", model, "--codes", codes, "--out", tmp_path / "out") == 2
    assert "row 0: encoded with codebook" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
