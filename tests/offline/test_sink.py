"""A folder of picture files: whole files, a manifest that tells the truth, errors, resuming, other jobs refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.offline.hindrances import limit_files, limits_end, small_files_only
from tests.offline.pictures import MODEL, SETTINGS, finished, picture
from v2flow_engine.cli import main as report
from v2flow_engine.errors import OutputError
from v2flow_engine.files import slug
from v2flow_engine.offline.identity import KeySet, key_of
from v2flow_engine.offline.manifest import iter_manifest
from v2flow_engine.offline.planning import BadRow, Picture
from v2flow_engine.offline.reading_back import read_picture
from v2flow_engine.offline.resume import Survey, read_finished, refuse_changes
from v2flow_engine.offline.sheet import sheet_of
from v2flow_engine.offline.sink import OutputFormat, Sink, check_out, open_sink
from v2flow_engine.offline.sources import SourceRow

PNG = OutputFormat()


@contextmanager
def sink_in(directory: Path, output: OutputFormat = PNG, **options: Any) -> Iterator[Sink]:
    """The sink of a folder, for the tiny model."""
    with open_sink(directory, output, MODEL, **options) as sink:
        yield sink


def names(directory: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in directory.iterdir())


def ids(directory: Path) -> list[int | str]:
    """Of the manifest."""
    return [entry.id for entry in iter_manifest(directory)]


def todo(directory: Path, pictures: list[Picture]) -> list[int]:
    """The places of those that are to do."""
    done = read_finished(directory)
    return [each.request.index for each in pictures if not done.holds(each)]


def test_pictures_manifest_and_errors(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with sink_in(out) as sink:
        sink.write(picture(2, "Zwei Katzen & 猫!", extra={"topic": "cats"}), finished(2, b"two"))
        sink.write(picture(1), finished(1, error="no good"))
        sink.write(picture(0), finished(0, b"zero"))
        sink.fail(BadRow(SourceRow(4, "line 9", {"n": 3}), "line 9: no column 'prompt'", 3, 3))
    assert names(out) == ["000000-a-cat.png", "000002-zwei-katzen.png", "errors.jsonl", "manifest.jsonl"]
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [0, 2]
    assert lines[1] == {
        "id": 2,
        "prompt": "Zwei Katzen & 猫!",
        "seed": 102,
        "parameters": MODEL | SETTINGS.to_dict(),
        "file": "000002-zwei-katzen.png",
        "sha256": hashlib.sha256(b"two").hexdigest(),
        "bytes": 3,
        "seconds": 0.25,
        "index": 2,
        "format": "png",
        "timings": {"tokens": 0.125, "decoder": 0.125},
        "extra": {"topic": "cats"},
    }
    failed = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert failed[0] == {
        "row": 2, "id": 1, "prompt": "a cat", "seed": 101, "error": "no good", "pictures": 1,
        "columns": {"prompt": "a cat"},
    }  # fmt: skip
    assert failed[1] == {
        "row": 4, "id": 3, "prompt": None, "error": "line 9: no column 'prompt'", "pictures": 3, "columns": {"n": 3},
    }  # fmt: skip


def test_a_second_run_finds_what_is_missing(tmp_path: Path) -> None:
    pictures = [picture(i) for i in range(5)]
    with sink_in(tmp_path) as sink:
        for index in (0, 1, 3):
            sink.write(pictures[index], finished(index))
        sink.write(pictures[4], finished(4, error="no good"))
    (tmp_path / "000001-a-cat.png").unlink()
    (tmp_path / "000003-a-cat.png").write_bytes(b"cut")
    with sink_in(tmp_path):  # a run that ends at once
        pass
    assert ids(tmp_path) == [0]
    assert todo(tmp_path, pictures) == [1, 2, 3, 4]
    with sink_in(tmp_path) as sink:
        for index in (1, 2, 3, 4):
            sink.write(pictures[index], finished(index))
    assert not (tmp_path / "errors.jsonl").exists()
    assert todo(tmp_path, pictures) == []
    assert ids(tmp_path) == [0, 1, 2, 3, 4]


def test_large_jobs_get_folders(tmp_path: Path) -> None:
    far = dataclasses.replace(picture(12_345), id="x", key=0xAB)
    with sink_in(tmp_path, pictures=20_000) as sink:
        sink.write(far, finished(12_345))
    (entry,) = iter_manifest(tmp_path)
    assert entry.file == "00012/012345-a-cat-00000000000000ab.png"
    assert entry.is_whole(tmp_path)


@pytest.mark.parametrize("output", [PNG, OutputFormat("webdataset")], ids=lambda each: each.label)
def test_a_row_that_moved_leaves_its_place_to_another(tmp_path: Path, output: OutputFormat) -> None:
    """The same prompt at the same place, but another row: its picture takes nobody's name."""
    first = dataclasses.replace(picture(0), id="first", key=key_of("first"))
    other = dataclasses.replace(picture(0), id="other", key=key_of("other"))
    for each in (first, other):
        with sink_in(tmp_path, output) as sink:
            sink.write(each, dataclasses.replace(finished(0), image=each.id.encode()))
    entries = {entry.id: entry for entry in iter_manifest(tmp_path)}
    assert {name: read_picture(tmp_path, entry) for name, entry in entries.items()} == {
        "first": b"first",
        "other": b"other",
    }
    members = []
    for path in tmp_path.glob("*.tar"):
        with tarfile.open(path) as tar:
            members += tar.getnames()
    assert len(set(members)) == len(members) == (4 if output.container == "webdataset" else 0)


def test_what_is_no_text_is_shown_as_what_it_is(tmp_path: Path) -> None:
    """A prompt of lone surrogates, as a file in another encoding has: a line of errors.jsonl, and a page."""
    with sink_in(tmp_path) as sink:
        sink.write(picture(0), finished(0))
        sink.fail(BadRow(SourceRow(2, "line 2", {"prompt": "caf\udce9"}), "no Unicode: caf\udce9", 1, 1))
    page = sheet_of(tmp_path, 1).read_text(encoding="utf-8")
    assert "caf\\udce9" in page
    assert report(["report", str(tmp_path)]) == 0
    assert "caf\\udce9" in (tmp_path / "report.html").read_text(encoding="utf-8")


def old_line(directory: Path) -> None:
    """A manifest as the first release wrote it, with its picture."""
    (directory / "000000-a-cat.png").write_bytes(b"picture")
    parameters = MODEL | SETTINGS.to_dict()
    del parameters["guidance_schedule"]
    line = {"id": 0, "prompt": "a cat", "seed": 100, "parameters": parameters, "file": "000000-a-cat.png"}
    line |= {"sha256": "", "bytes": 7, "seconds": 0.1}
    (directory / "manifest.jsonl").write_text(json.dumps(line) + "\n")


def test_a_run_from_before_there_were_schedules_is_resumed(tmp_path: Path) -> None:
    old_line(tmp_path)
    assert todo(tmp_path, [picture(0)]) == []


def survey(directory: Path, pictures: list[Picture]) -> Survey:
    """Of a job with these pictures."""
    return Survey.of(pictures, read_finished(directory), lambda each: None)


@pytest.mark.parametrize(
    ("change", "label", "said"),
    [
        (lambda: picture(0, "a dog"), "png", "prompt was 'a cat', now 'a dog'"),
        (
            lambda: picture(0, settings=dataclasses.replace(SETTINGS, rounds=4, top_k=3)),
            "png",
            "top_k was 0, now 3, rounds was 2, now 4",
        ),
        (
            lambda: picture(0, settings=dataclasses.replace(SETTINGS, guidance_schedule="linear")),
            "png",
            "schedule was 'constant', now 'linear'",
        ),
        (lambda: picture(0, label="webp"), "webp", "format was 'png', now 'webp'"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(
    tmp_path: Path, change: Callable[[], Picture], label: str, said: str
) -> None:
    with sink_in(tmp_path) as sink:
        sink.write(picture(0), finished(0))
    now = survey(tmp_path, [change(), picture(1, label=label)])
    assert (now.todo, len(now.changed)) == (2, 1)
    parameters = MODEL | change().request.parameters.to_dict()
    with pytest.raises(OutputError, match=said):
        refuse_changes(tmp_path, now, parameters, label)


def test_changed_pictures_are_made_anew_when_asked(tmp_path: Path) -> None:
    with sink_in(tmp_path) as sink:
        for index in range(3):
            sink.write(picture(index), finished(index))
    now = [picture(0), picture(1, "a dog"), picture(2)]
    changed = survey(tmp_path, now).changed
    with sink_in(tmp_path, changed=changed) as sink:
        assert [sink.finished.holds(each) for each in now] == [True, False, True]
        sink.write(now[1], finished(1))
    assert names(tmp_path) == [
        "000000-a-cat.png", "000001-a-dog.png", "000002-a-cat.png", "manifest.jsonl",
    ]  # fmt: skip
    assert todo(tmp_path, now) == []


def test_a_line_cut_short_by_a_kill_is_forgotten(tmp_path: Path) -> None:
    with sink_in(tmp_path) as sink:
        for index in range(2):
            sink.write(picture(index), finished(index))
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-20])
    assert ids(tmp_path) == [0]
    with sink_in(tmp_path) as sink:
        sink.write(picture(1), finished(1))
        assert ids(tmp_path) == [0, 1]  # as a kill at this moment would leave it
    assert ids(tmp_path) == [0, 1]


def test_a_manifest_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"name": "a web app"}\n')
    with pytest.raises(OutputError, match=r"manifest\.jsonl, line 1"):
        read_finished(tmp_path)


def test_a_failure_inside_keeps_what_is_finished_and_leaves_no_scraps(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".000009-a-cat.png.tmp").write_bytes(b"from a killed run")
    with pytest.raises(KeyboardInterrupt), sink_in(out, OutputFormat.of("webp")) as sink:
        sink.write(picture(0), finished(0))
        raise KeyboardInterrupt
    assert names(out) == ["000000-a-cat.webp", "manifest.jsonl"]


def test_a_failure_before_the_first_picture_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), sink_in(tmp_path / "a" / "b"):
        raise RuntimeError("the engine does not start")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("container", ["png", "webdataset", "parquet"])
def test_a_full_disk_is_told_and_costs_nothing_that_is_finished(tmp_path: Path, container: str) -> None:
    output = OutputFormat.of(container, shard_pictures=2)
    pictures = [picture(i, label=output.label) for i in range(4)]
    with pytest.raises(OutputError, match="cannot be written"), sink_in(tmp_path, output) as sink:
        for index in range(2):
            sink.write(pictures[index], finished(index))
        with small_files_only(20_000):
            for index in (2, 3):
                sink.write(pictures[index], finished(index, random.Random(index).randbytes(50_000)))
    assert todo(tmp_path, pictures) == [2, 3]
    assert [name for name in names(tmp_path) if name.startswith(".")] == []
    with sink_in(tmp_path, output) as sink:
        for index in (2, 3):
            sink.write(pictures[index], finished(index))
    assert sorted(ids(tmp_path)) == [0, 1, 2, 3]


@pytest.mark.parametrize("container", ["webdataset", "parquet"])
def test_a_disk_that_is_full_for_the_last_shard_leaves_no_scraps(tmp_path: Path, container: str) -> None:
    output = OutputFormat.of(container, shard_pictures=2)
    pictures = [picture(i, label=output.label) for i in range(3)]
    with (
        limits_end(),
        pytest.raises(OutputError, match="cannot be written"),
        sink_in(tmp_path, output) as sink,
    ):
        for index in range(3):
            sink.write(pictures[index], finished(index, bytes(5000)))
        assert sink.kept == 2
        limit_files(100)
    assert todo(tmp_path, pictures) == [2]
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


def test_two_runs_cannot_write_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from v2flow_engine.offline.sink import OutputFormat, open_sink\n"
        "with open_sink(Path(sys.argv[1]), OutputFormat(), {}): pass"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with sink_in(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another run is writing there" in second.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_folders_that_cannot_be_written_are_found_without_touching_them(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    for path, said in [
        (file, "is not a folder"),
        (file / "below", "is not a folder"),
        (foreign, "holds other files \\(thesis.tex\\)"),
    ]:
        with pytest.raises(OutputError, match=said):
            check_out(path)
    check_out(tmp_path / "new" / "deeper")
    assert names(tmp_path) == ["file", "foreign"]
    with pytest.raises(OutputError, match="cannot be created"), sink_in(Path("/proc/v2flow")):
        pass


def test_changed_is_empty_without_changes(tmp_path: Path) -> None:
    assert isinstance(survey(tmp_path, [picture(0)]).changed, KeySet)
    refuse_changes(tmp_path, survey(tmp_path, [picture(0)]), {}, "png")


def test_slugs_are_short_plain_names() -> None:
    assert slug("A 3D pizza, on/..\\blue") == "a-3d-pizza-on-blue"
    assert slug("猫 🐈") == "picture"
    assert len(slug("long " * 100)) <= 48
