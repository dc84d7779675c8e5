"""Whole datasets from tiny packages, through the command."""

import argparse
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from v2flow_engine.errors import DataError, OutputError
from v2flow_engine.training.emoji import command, shards
from v2flow_engine.training.emoji.compose import compose
from v2flow_engine.training.emoji.dataset import shard_paths
from v2flow_engine.training.emoji.splits import SPLITS, split_of
from v2flow_engine.training.emoji.sprites import load_sprites
from v2flow_engine.training.emoji.wordings import LANGUAGES, read_wordings


def make(out: Path, packages: Path, *options: str) -> int:
    """Runs the command as the command line does."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    defaults = ["--out", str(out), "--packages", str(packages), "--workers", "1", "--shard-size", "40"]
    return command.run(parser.parse_args([*defaults, *options]))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*shard_paths(out), out / "dataset.json"]}


def records_of(out: Path) -> list[dict]:
    return [
        json.loads(sample["json"])
        for path in shard_paths(out)
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]


def test_shards_hold_what_they_say(tiny_packages: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "out", tiny_packages, "--images", "100") == 0
    names = [path.name for path in shard_paths(tmp_path / "out")]
    assert names == [
        "heldout_combination-000000.tar",
        "heldout_emoji-000000.tar",
        "train-000000.tar",
        "train-000001.tar",
        "train-000002.tar",
    ]
    sprites = load_sprites(tmp_path / "out" / "packages")
    counts = dict.fromkeys(SPLITS, 0)
    for path in shard_paths(tmp_path / "out"):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            record = json.loads(sample["json"])
            counts[record["split"]] += 1
            assert path.name.startswith(record["split"])
            drawn = np.asarray(Image.open(io.BytesIO(sample["webp"])))
            sprite = sprites[record["hexcode"], record["style"]]
            assert np.array_equal(drawn, compose(sprite, record["background_rgb"], record["count"]))
            facts = (record["hexcode"], record["style"], record["background"], record["count"])
            assert split_of(*facts) == record["split"]
            assert record["caption"] and record["label"] and isinstance(record["tags"], list)
    assert counts == {"train": 96, "heldout_combination": 2, "heldout_emoji": 2}


def test_records_carry_wordings_on_request(tiny_packages: Path, tmp_path: Path) -> None:
    plain, worded = tmp_path / "plain", tmp_path / "worded"
    make(plain, tiny_packages, "--images", "200")
    make(worded, tiny_packages, "--images", "200", "--wordings")
    without, records = records_of(plain), records_of(worded)
    assert not any("wordings" in record for record in without)
    assert [record["hexcode"] for record in records] == [record["hexcode"] for record in without]
    number = len(read_wordings()["robot"]) + len(LANGUAGES)
    assert all(len(record["wordings"]) == number for record in records if record["label"] == "robot")
    assert all("wordings" not in record for record in records if record["label"] == "orca")
    freely = [r for r in records if r["caption"].startswith(tuple(r.get("wordings", [])) or ("-",))]
    assert freely and all(record["count"] == 1 for record in freely)
    assert [r["caption"] for r in records if r["count"] > 1] == [
        r["caption"] for r in without if r["count"] > 1
    ]
    settings = [json.loads((out / "dataset.json").read_text())["settings"] for out in (plain, worded)]
    assert settings == [{key: settings[1][key] for key in settings[1] if key != "wordings"}, settings[1]]
    assert settings[1]["wordings"] is True
    with pytest.raises(OutputError, match="another dataset"):
        make(plain, tiny_packages, "--images", "200", "--wordings")


def test_description(tiny_packages: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", tiny_packages, "--images", "50", "--seed", "3")
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["format_version"] == 1
    assert description["settings"]["seed"] == 3
    assert description["images"] == {"train": 48, "heldout_combination": 1, "heldout_emoji": 1}
    assert sum(description["images_by_style"]["train"].values()) == 48
    assert description["palette"]["white"] == [255, 255, 255]
    licences = {package["name"]: package["licence"] for package in description["packages"]}
    assert licences["@iconify-json/noto"] == "Apache-2.0"


def test_all_combinations_and_large_pictures(tiny_packages: Path, tmp_path: Path) -> None:
    options = ("--all-combinations", "--background", "blue", "--size", "256x256", "--shard-size", "1000")
    make(tmp_path / "out", tiny_packages, *options)
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    pairs = 7 * 3 + 1 + 2 + 3  # seven emoji in three styles, one in one, a flag in two, a sign in three
    assert sum(description["images"].values()) == pairs * 4
    sample = next(iter(webdataset.WebDataset(str(shard_paths(tmp_path / "out")[-1]), shardshuffle=False)))
    assert Image.open(io.BytesIO(sample["webp"])).size == (256, 256)


def test_random_backgrounds_are_exact_and_named_only_if_near(tiny_packages: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", tiny_packages, "--images", "200", "--background", "random", "--shard-size", "500")
    records = records_of(tmp_path / "out")
    unnamed = [record for record in records if isinstance(record["background"], list)]
    assert 0 < len(unnamed) < len(records) == 200
    assert all(record["background"] == record["background_rgb"] for record in unnamed)
    assert not any("background" in record["caption"] for record in unnamed)


def test_workers_and_reruns_give_the_same_bytes(tiny_packages: Path, tmp_path: Path) -> None:
    make(tmp_path / "one", tiny_packages, "--images", "100")
    make(tmp_path / "two", tiny_packages, "--images", "100", "--workers", "2")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    make(tmp_path / "other", tiny_packages, "--images", "100", "--seed", "1")
    assert contents(tmp_path / "one") != contents(tmp_path / "other")


def test_running_again(tiny_packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    make(out, tiny_packages, "--images", "50")
    first = contents(out)
    capsys.readouterr()
    assert make(out, tiny_packages, "--images", "50", "--workers", "2") == 0
    assert "already" in capsys.readouterr().out
    with pytest.raises(OutputError, match=r"another dataset.*--overwrite"):
        make(out, tiny_packages, "--images", "120")
    assert contents(out) == first
    make(out, tiny_packages, "--images", "120", "--overwrite")
    assert len(shard_paths(out)) == 5
    make(out, tiny_packages, "--images", "50", "--overwrite")
    assert contents(out) == first


def test_a_failure_leaves_no_shard(
    tiny_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, encode, calls = tmp_path / "out", shards.encode_webp, []

    def full_disk(pixels: np.ndarray) -> bytes:
        calls.append(1)
        if len(calls) > 70:
            raise OSError(28, "No space left on device")
        return encode(pixels)

    monkeypatch.setattr(shards, "encode_webp", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        make(out, tiny_packages, "--images", "100")
    assert [path.name for path in out.iterdir()] == ["packages"]
    monkeypatch.setattr(shards, "encode_webp", encode)
    make(out, tiny_packages, "--images", "100")
    first = contents(out)
    monkeypatch.setattr(shards, "encode_webp", full_disk)
    with pytest.raises(OutputError):
        make(out, tiny_packages, "--images", "120", "--overwrite")
    assert contents(out) == first, "the finished dataset stays until the next one is finished"


def test_leftovers_of_a_killed_run(tiny_packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".building-killed").mkdir(parents=True)
    (out / ".building-killed" / "train-000000.tar").write_bytes(b"half")
    make(out, tiny_packages, "--images", "50")
    assert not (out / ".building-killed").exists()
    assert all(tarfile.is_tarfile(path) for path in shard_paths(out))
    (out / "dataset.json").unlink()
    with pytest.raises(OutputError, match=r"without a dataset\.json"):
        make(out, tiny_packages, "--images", "50")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "0"), "--images is 0"),
        (("--shard-size", "0"), "--shard-size is 0"),
        (("--workers", "0"), "--workers is 0"),
        (("--background", "mauve"), "mauve"),
        (("--all-combinations", "--background", "random"), "--all-combinations"),
        (("--images", "100000"), "different ones"),
    ],
)
def test_wrong_options(options: tuple[str, ...], message: str, tiny_packages: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        make(tmp_path / "out", tiny_packages, *options)
    assert not shard_paths(tmp_path / "out")
