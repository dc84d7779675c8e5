"""`v2flow data codes`, and an LLM that is trained on what it writes as on the pictures themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_training import command
from tests.training.tiny_run import write_all
from v2flow_engine.cli import main
from v2flow_engine.errors import DataError
from v2flow_engine.training.coded import ABOUT, read_coded, tokenizer_digest

SETTINGS = ["--set", "loop.steps=3"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two sizes, a trained autoencoder and tokenizer, and the pictures' codes in codes/."""
    root = tmp_path_factory.mktemp("coded")
    write_all(root)
    for stage in ("vae", "tokenizer"):
        assert main(command(root, stage, stage)) == 0
    assert main(encode(root, root / "codes")) == 0
    return root


def encode(root: Path, out: Path, *extra: str) -> list[str]:
    runs, data = root / "runs", [str(root / "data"), str(root / "wide")]
    parts = ["--vae", str(runs / "vae/vae"), "--tokenizer", str(runs / "tokenizer/visual_tokenizer")]
    return ["data", "codes", "--data", *data, *parts, "--out", str(out), "--workers", "1", *extra]


def on_codes(root: Path, codes: Path, out: str, *extra: str) -> list[str]:
    """`train llm` of the tiny run, on a folder of codes."""
    arguments = command(root, "llm", out, *SETTINGS, *extra)
    first = arguments.index("--data") + 1
    return [*arguments[:first], str(codes), *arguments[first + 2 :]]


def test_an_llm_learns_from_codes_what_it_learns_from_pictures(root: Path) -> None:
    assert main(on_codes(root, root / "codes", "on-codes")) == 0
    assert main(command(root, "llm", "on-pictures", *SETTINGS)) == 0
    ours, theirs = (
        load_file(str(root / "runs" / name / "llm/model.safetensors")) for name in ("on-codes", "on-pictures")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_codes_of_each_size_and_split_with_their_records(root: Path) -> None:
    training = {each.size: each for each in read_coded([root / "codes"], "train")}
    assert {size: tuple(each.codes.shape) for size, each in training.items()} == {
        "64x64": (24, 16),
        "64x32": (12, 8),
    }
    assert training["64x64"].records[1]["caption"] == "a green square at 0"
    assert sum(map(len, read_coded([root / "codes"], "heldout"))) == 12
    assert sum(map(len, read_coded([root / "codes"], "train", limit=5))) == 5
    twice = read_coded([root / "codes"] * 2, "train", limit=20)
    assert sum(map(len, twice)) == 40


def test_a_folder_that_is_there_is_left(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(encode(root, root / "codes")) == 2
    assert "must be a new or empty folder" in capsys.readouterr().err


def test_codes_of_another_tokenizer_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = root / "other"
    shutil.copytree(root / "codes", copy)
    about = json.loads((copy / ABOUT).read_text())
    assert about["tokenizer"] == tokenizer_digest(root / "runs/tokenizer/visual_tokenizer")
    (copy / ABOUT).write_text(json.dumps(about | {"tokenizer": "0123456789abcdef"}))
    assert main(on_codes(root, copy, "never")) == 2
    assert "are of the visual tokenizer 0123456789abcdef" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [["--size", "64x64"], []])
def test_codes_and_pictures_do_not_mix(
    root: Path, extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = on_codes(root, root / "codes", "never", *extra)
    if not extra:
        arguments.insert(arguments.index("--data") + 1, str(root / "data"))
    assert main(arguments) == 2
    assert "go with no pictures and no --size" in capsys.readouterr().err


def test_an_encoding_that_is_cut_off_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("v2flow_engine.training.coded.save_json", stop)
    assert main(encode(root, root / "cut")) == 130
    assert not list(root.glob("cut*"))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"codes": [[0, 1], [2]], "record": ["{}", "{}"]}, "holds no codes"),
        ({"codes": [[0, 9999]], "record": ["{}"]}, r"all in \[0, "),
        ({"codes": [[0, -1]], "record": ["{}"]}, r"all in \[0, "),
        ({"codes": [[0, 1]], "record": ["{"]}, "holds no codes"),
        ({"codes": [[0, 1]]}, "holds no codes"),
        (None, "holds no codes"),
    ],
)
def test_a_damaged_file_is_told(root: Path, tmp_path: Path, rows: dict | None, reason: str) -> None:
    shutil.copyfile(root / "codes" / ABOUT, tmp_path / ABOUT)
    path = tmp_path / "train-64x64.parquet"
    path.write_bytes(b"no parquet") if rows is None else pq.write_table(pa.table(rows), path)
    with pytest.raises(DataError, match=reason) as raised:
        read_coded([tmp_path], "train")
    assert str(path) in str(raised.value)


def test_a_folder_without_the_split_and_another_format_are_told(root: Path, tmp_path: Path) -> None:
    shutil.copyfile(root / "codes" / ABOUT, tmp_path / ABOUT)
    with pytest.raises(DataError, match="holds no codes of pictures named heldout-WxH"):
        read_coded([tmp_path], "heldout")
    (tmp_path / ABOUT).write_text('{"format": 99, "codebook_size": 16}')
    with pytest.raises(DataError, match="of format 1"):
        read_coded([tmp_path], "train")
