"""Folders of images with captions: three ways to say them, what is held out, sizes, and what is said of mistakes."""

import csv
import json
import random
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tests.training.tiny_run import COLOURS, write_configs, write_squares
from v2flow_engine.cli import main
from v2flow_engine.errors import DataError, RequestError
from v2flow_engine.training.image_folder import is_held_out, list_images
from v2flow_engine.training.pictures import load_pictures
from v2flow_engine.training.sizing import Sizing
from v2flow_engine.training.text import caption_of

SIZES = Sizing(("64x64", "64x32"))


def write_images(folder: Path, count: int = 24) -> dict[str, str]:
    """Pictures of growing size and changing shape, half of them in a folder below; returns their captions."""
    captions = {}
    for i in range(count):
        name, colour = list(COLOURS.items())[i % 4]
        width, height = (70 + i, 70 + i) if i % 3 else (150 + i, 70 + i)
        path = folder / ("below" if i % 2 else "") / f"{i:02d}.{'png' if i % 4 else 'JPG'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), colour).save(path)
        captions[path.relative_to(folder).as_posix()] = f"a {name} field, number {i}"
    return captions


def write_captions(folder: Path, captions: dict[str, str], form: str) -> None:
    if form == "txt":
        for name, caption in captions.items():
            (folder / name).with_suffix(".txt").write_text(f"{caption}\n")
    elif form == "jsonl":
        rows = [json.dumps({"file_name": name, "text": text, "label": 3}) for name, text in captions.items()]
        (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n\n")
    else:
        with (folder / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file_name", "caption"), *captions.items()])


@pytest.mark.parametrize("form", ["txt", "jsonl", "csv"])
def test_captions_come_in_three_forms(tmp_path: Path, form: str) -> None:
    captions = write_images(tmp_path)
    write_captions(tmp_path, captions, form)
    sets = [load_pictures([tmp_path], splits, 2, None, SIZES, 0.25) for splits in (["train"], ["heldout_x"])]
    names = []
    for pictures in (p for each in sets for p in each):
        assert pictures.size in SIZES.sizes and len(pictures.pixels) == len(pictures.records)
        for pixels, record in zip(pictures.pixels, pictures.records, strict=True):
            assert record == {"file_name": record["file_name"], "caption": captions[record["file_name"]]}
            colour = COLOURS[record["caption"].split()[1]]
            assert abs(pixels[10, 10].int().numpy() - colour).max() < 6  # JPEG
            wide = int(Path(record["file_name"]).stem) % 3 == 0
            assert pictures.size == ("64x32" if wide else "64x64")
            names.append(record["file_name"])
    assert sorted(names) == sorted(captions)
    heldout = {record["file_name"] for pictures in sets[1] for record in pictures.records}
    assert heldout == {name for name in captions if is_held_out(name, 0.25)} and 0 < len(heldout) < 20
    assert sum(map(len, load_pictures([tmp_path], ["train"], 2, 5, SIZES, 0.25))) == 5


def test_the_held_out_share_is_about_what_was_asked_for() -> None:
    held = [is_held_out(f"{i}.png", 0.2) for i in range(5000)]
    assert 0.18 < sum(held) / len(held) < 0.22
    assert not any(is_held_out(f"{i}.png", 0.0) for i in range(100))


def test_a_picture_goes_to_the_size_of_its_shape_and_then_of_its_area() -> None:
    sizing = Sizing(("64x64", "128x128", "128x64", "64x128"))
    assert sizing.nearest(70, 66) == "64x64" and sizing.nearest(1000, 1001) == "128x128"
    assert sizing.nearest(3000, 1000) == "128x64" and sizing.nearest(100, 500) == "64x128"
    assert Sizing().pixels(Image.new("RGBA", (5, 4))).tolist() == [[[255, 255, 255]] * 5] * 4
    padded = Sizing(("8x8",), "pad", (255, 0, 0)).pixels(Image.new("RGB", (8, 4), "blue"))
    assert padded[0, 0].tolist() == [255, 0, 0] and padded[4, 4].tolist() == [0, 0, 255]
    with pytest.raises(RequestError, match="64"):
        Sizing(("64",))
    with pytest.raises(RequestError, match="squeeze"):
        Sizing(("64x64",), "squeeze")


def test_shards_of_other_sizes_are_brought_to_one(tmp_path: Path) -> None:
    small, wide = write_squares(tmp_path / "a", train=4), write_squares(tmp_path / "b", train=2, width=96)
    [pictures] = load_pictures([small, wide], ["train"], 1, None, Sizing(("32x32",)))
    assert (pictures.size, len(pictures)) == ("32x32", 6)
    with tarfile.open(small / "train-000001.tar", "w") as mixed:
        for i, width in enumerate((40, 50)):
            Image.new("RGB", (width, 40)).save(tmp_path / f"{i}.png")
            (tmp_path / f"{i}.json").write_text("{}")
            for suffix in ("png", "json"):
                mixed.add(tmp_path / f"{i}.{suffix}", f"{i}.{suffix}")
    with pytest.raises(
        DataError, match=r"000001\.tar: pictures of 2 different sizes \(40x40, 50x40\); --size"
    ):
        load_pictures([small], ["train"], 1)
    assert sum(map(len, load_pictures([small], ["train"], 1, None, Sizing(("32x32",))))) == 6


def test_mistakes_in_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        load_pictures([tmp_path], ["train"], 1)
    captions = write_images(tmp_path, 6)
    with pytest.raises(DataError, match="different sizes"):
        load_pictures([tmp_path], ["train"], 1)
    with pytest.raises(DataError, match="none of 6 images is held out"):
        load_pictures([tmp_path], ["heldout_x"], 1, None, SIZES, 1e-9)
    (tmp_path / "05.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"05\.png is no picture"):
        load_pictures([tmp_path], ["train"], 1, None, SIZES, 1e-9)
    assert all("caption" not in record for _, record in list_images(tmp_path))
    metadata = tmp_path / "metadata.jsonl"
    for text, message in (
        ('{"file_name": "nowhere.png"}', "line 1: no image"),
        ("\n{", "line 2: not valid JSON"),
        ("[1]", "line 1: expected a JSON object"),
        ('{"name": "00.JPG"}', "line 1: expected a file_name"),
        ('{"file_name": "00.JPG"}\n{"file_name": "00.JPG"}', "line 2: 00.JPG is in line 1"),
        ('{"file_name": "00.JPG", "text": ["a", "b"]}', "expected a text"),
        ("", "no images"),
    ):
        metadata.write_text(text)
        with pytest.raises(DataError, match=message):
            list_images(tmp_path)
    write_captions(tmp_path, captions, "csv")
    with pytest.raises(DataError, match="expected one of them"):
        list_images(tmp_path)


def test_the_command_trains_on_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_configs(tmp_path)
    write_images(tmp_path / "photos")
    words = ["train", "vae", "--data", str(tmp_path / "photos"), "--config", str(tmp_path / "vae.yaml")]
    words += ["--out", str(tmp_path / "run"), "--device", "cpu", "--set", "loop.steps=1"]
    sized = [*words, "--size", "64x64", "64x32", "--heldout-share", "0.25"]
    assert main([*sized, "--fit", "pad", "--pad-color", "white"]) == 0
    assert "64x64: 7 pictures, 9 held out" in capsys.readouterr().out
    for arguments, message in (
        (words, "--size WxH"),
        ([*words, "--size", "64"], "128x128"),
        ([*words, "--size", "60x60"], "multiples of 8"),
        ([*sized, "--heldout-share", "1"], "between 0 and 1"),
        ([*sized, "--fit", "pad", "--pad-color", "nothing"], "nothing"),
        ([*sized, "--fit", "stretch"], "holds another run"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_only_the_llm_needs_captions() -> None:
    assert caption_of({"file_name": "a.png", "caption": "a cat"}, random.Random(0)) == "a cat"
    with pytest.raises(DataError, match=r"a\.png"):
        caption_of({"file_name": "a.png"}, random.Random(0))


def test_a_record_may_carry_wordings() -> None:
    facts = {"label": "robot", "tags": [], "style": "flat", "background": "teal", "count": 1}
    rng = random.Random(0)
    texts = [caption_of({**facts, "wordings": ["WALL-E"]}, rng) for _ in range(50)]
    assert {"robot", "WALL-E"} == {word for text in texts for word in ("robot", "WALL-E") if word in text}
