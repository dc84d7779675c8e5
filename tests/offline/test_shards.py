"""Shards as users read them (webdataset, datasets, Pillow, our own manifest), and after a kill at any moment."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.offline.pictures import MODEL, finished, picture, png
from v2flow_engine.errors import OutputError
from v2flow_engine.offline.command import add_arguments
from v2flow_engine.offline.identity import KeySet
from v2flow_engine.offline.manifest import iter_manifest
from v2flow_engine.offline.prepare import check
from v2flow_engine.offline.reading_back import read_picture
from v2flow_engine.offline.resume import read_finished
from v2flow_engine.offline.shards import read_shards
from v2flow_engine.offline.sink import OutputFormat, open_sink

COUNT = 7


@pytest.fixture(params=["webdataset", "parquet"])
def output(request: pytest.FixtureRequest) -> OutputFormat:
    """Shards of three."""
    return OutputFormat.of(request.param, shard_pictures=3)


def fill(directory: Path, output: OutputFormat, places: list[int]) -> None:
    """Write these pictures."""
    with open_sink(directory, output, MODEL) as sink:
        for index in places:
            each = picture(
                index, f"cat {index}", row_id=f"id.{index}", label=output.label, extra={"topic": "cats"}
            )
            if not sink.finished.holds(each):
                sink.write(each, finished(index, png(index)))


def red_of(data: bytes) -> int:
    """Which picture it is."""
    return Image.open(io.BytesIO(data)).getpixel((0, 0))[0]  # type: ignore[index]


def test_the_manifest_says_where_a_picture_is(tmp_path: Path, output: OutputFormat) -> None:
    fill(tmp_path, output, list(range(COUNT)))
    entries = list(iter_manifest(tmp_path))
    assert [red_of(read_picture(tmp_path, entry)) for entry in entries] == list(range(COUNT))
    assert [record.pictures for record in read_shards(tmp_path).values()] == [3, 3, 1]


def test_a_shard_is_full_at_a_number_of_bytes(tmp_path: Path) -> None:
    fill(tmp_path, OutputFormat.of("webdataset", shard_bytes=2 * len(png(0)) - 10), list(range(4)))
    assert [record.pictures for record in read_shards(tmp_path).values()] == [2, 2]


@pytest.mark.parametrize(
    ("options", "limits", "shards"),
    [
        ([], (1000, 2**28), [1000, 2]),
        (["--shard-bytes", "2GB"], (None, 2 * 10**9), [1002]),
        (["--shard-size", "1001"], (1001, None), [1001, 1]),
        (["--shard-size", "900", "--shard-bytes", "2GB"], (900, 2 * 10**9), [900, 102]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else "",
)
def test_a_limit_that_is_named_alone_rules_alone(
    options: list[str], limits: tuple[int | None, ...], shards: list[int], model_dir: Path, tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    argv = ["--model", str(model_dir), "--prompt", "a cat", "--format", "webdataset"]
    output = check(parser.parse_args([*argv, "--out", str(tmp_path / "out"), *options])).output
    assert (output.shard_pictures, output.shard_bytes) == limits
    image = png(0)
    with open_sink(tmp_path, output, MODEL) as sink:
        for index in range(1002):
            sink.write(picture(index, label=output.label), finished(index, image))
    assert [record.pictures for record in read_shards(tmp_path).values()] == shards


def test_webdataset_reads_tars(tmp_path: Path) -> None:
    import webdataset

    fill(tmp_path, OutputFormat.of("webdataset", shard_pictures=4), list(range(COUNT)))
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["png"].getpixel((0, 0))[0] for sample in samples] == list(range(COUNT))
    assert samples[5]["json"]["id"] == "id.5"
    assert samples[5]["json"]["prompt"] == "cat 5"
    assert samples[5]["json"]["seed"] == 105
    assert samples[5]["json"]["extra"] == {"topic": "cats"}
    assert samples[5]["json"]["parameters"]["model"] == "tiny"


def test_datasets_reads_both(tmp_path: Path, output: OutputFormat) -> None:
    """In a process of its own: `datasets` reads its settings when it is imported."""
    fill(tmp_path / "out", output, list(range(COUNT)))
    code = (
        "import sys, datasets\n"
        "kind, pattern = sys.argv[1:]\n"
        "data = datasets.load_dataset(kind, data_files=pattern, split='train')\n"
        "image = 'png' if kind == 'webdataset' else 'image'\n"
        "print([row[image].getpixel((0, 0))[0] for row in data])\n"
        "print([(row['json'] if kind == 'webdataset' else row)['prompt'] for row in data][3])\n"
    )
    pattern = str(tmp_path / "out" / f"*{'.tar' if output.container == 'webdataset' else '.parquet'}")
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, output.container, pattern]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.stdout.splitlines() == [str(list(range(COUNT))), "cat 3"], result.stderr[-2000:]


def test_every_moment_of_a_kill_is_mended(tmp_path: Path, output: OutputFormat) -> None:
    """A shard is renamed, then listed in the manifest, then in shards.jsonl: cut these."""
    whole = tmp_path / "whole"
    fill(whole, output, list(range(3)))
    lines = {name: (whole / name).read_bytes() for name in ("manifest.jsonl", "shards.jsonl")}
    (shard,) = whole.glob("shard-*")
    cuts = [(name, size) for name, data in lines.items() for size in (0, 1, len(data) // 2, len(data) - 1)]
    for number, (name, size) in enumerate(cuts):
        out = tmp_path / str(number)
        out.mkdir()
        (out / shard.name).write_bytes(shard.read_bytes())
        (out / "manifest.jsonl").write_bytes(lines["manifest.jsonl"])
        (out / name).write_bytes(lines[name][:size])
        if name == "manifest.jsonl":
            (out / "shards.jsonl").unlink(missing_ok=True)
        fill(out, output, list(range(4)))
        entries = list(iter_manifest(out))
        assert sorted(entry.id for entry in entries) == [f"id.{i}" for i in range(4)], (name, size)
        assert sorted(red_of(read_picture(out, entry)) for entry in entries) == [0, 1, 2, 3]
        assert {path.name for path in out.glob("shard-*")} == {entry.file for entry in entries}
        assert sum(record.pictures for record in read_shards(out).values()) == 4


def test_shards_are_not_scraps_when_their_list_is_lost(tmp_path: Path, output: OutputFormat) -> None:
    two = dataclasses.replace(output, shard_pictures=2)
    fill(tmp_path, two, list(range(6)))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")}
    listed = (tmp_path / "shards.jsonl").read_bytes()
    (tmp_path / "shards.jsonl").unlink()
    with pytest.raises(
        OutputError, match=r"shards\.jsonl is missing, and manifest\.jsonl has pictures of 3 shards"
    ):
        fill(tmp_path, two, list(range(6)))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")} == before
    (tmp_path / "shards.jsonl").write_bytes(listed)
    fill(tmp_path, two, list(range(6)))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")} == before


def test_a_shard_with_a_changed_picture_is_made_anew(tmp_path: Path, output: OutputFormat) -> None:
    fill(tmp_path, output, list(range(COUNT)))
    changed = picture(4, "another cat", row_id="id.4", label=output.label)
    assert read_finished(tmp_path).holds_another(changed)
    with open_sink(tmp_path, output, MODEL, changed=KeySet([changed.key])) as sink:
        assert len(sink.finished) == 4  # those of the two other shards
        sink.write(changed, finished(4, png(4)))
    fill(tmp_path, output, [0, 1, 2, 3, 5, 6])
    entries = list(iter_manifest(tmp_path))
    assert [(entry.id, entry.prompt) for entry in entries][4] == ("id.4", "another cat")
    assert [red_of(read_picture(tmp_path, entry)) for entry in entries] == list(range(COUNT))


def test_records_are_plain_json(tmp_path: Path) -> None:
    fill(tmp_path, OutputFormat.of("webdataset"), [0])
    (line,) = (tmp_path / "shards.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "shard-000000.tar"
