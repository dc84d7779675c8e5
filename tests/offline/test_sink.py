"""The output folder: whole files only, a manifest that can be trusted, and nothing of others' touched."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from v2flow_engine.errors import OutputError
from v2flow_engine.files import slug
from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.offline.manifest import read_manifest, requests_to_do
from v2flow_engine.offline.sink import check_out, open_sink
from v2flow_engine.offline.stages import FinishedImage

SETTINGS = GenerationParameters("64x64", 3.0, 1.0, 0, 2, 3, 1.0, 1.0)
PARAMETERS: dict[str, Any] = {"model": "tiny", "rounds": 2}


def request(index: int, prompt: str = "a cat") -> ImageRequest:
    """A request that nobody runs: the sink knows no engine."""
    return ImageRequest(index, prompt, 100 + index, SETTINGS)


def finished(index: int, image: bytes = b"picture", error: str = "") -> FinishedImage:
    """What a decoder hands over."""
    return FinishedImage(index, b"" if error else image, error, 0.25)


def names(directory: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in directory.iterdir())


def test_pictures_manifest_and_errors(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with open_sink(out, "png", PARAMETERS) as sink:
        sink.write(request(2, "Zwei Katzen & 猫!"), finished(2, b"two"))
        sink.write(request(1), finished(1, error="no good"))
        sink.write(request(0), finished(0, b"zero"))
    assert names(out) == ["000000-a-cat.png", "000002-zwei-katzen.png", "errors.jsonl", "manifest.jsonl"]
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [0, 2]
    assert lines[1] == {
        "id": 2,
        "prompt": "Zwei Katzen & 猫!",
        "seed": 102,
        "parameters": PARAMETERS,
        "file": "000002-zwei-katzen.png",
        "sha256": hashlib.sha256(b"two").hexdigest(),
        "bytes": 3,
        "seconds": 0.25,
    }
    failed = json.loads((out / "errors.jsonl").read_text())
    assert failed == {"id": 1, "prompt": "a cat", "seed": 101, "error": "no good"}


def test_a_second_run_finds_what_is_missing(tmp_path: Path) -> None:
    requests = [request(i) for i in range(5)]
    with open_sink(tmp_path, "png", PARAMETERS) as sink:
        for index in (0, 1, 3):
            sink.write(request(index), finished(index))
        sink.write(request(4), finished(4, error="no good"))
    (tmp_path / "000001-a-cat.png").unlink()
    (tmp_path / "000003-a-cat.png").write_bytes(b"cut")
    with open_sink(tmp_path, "png", PARAMETERS) as sink:  # a run that ends at once
        assert list(sink.entries) == [0]
    todo = requests_to_do(tmp_path, read_manifest(tmp_path), requests, PARAMETERS, ".png")
    assert [r.index for r in todo] == [1, 2, 3, 4]
    with open_sink(tmp_path, "png", PARAMETERS) as sink:
        for each in todo:
            sink.write(each, finished(each.index))
    assert not (tmp_path / "errors.jsonl").exists()
    assert requests_to_do(tmp_path, read_manifest(tmp_path), requests, PARAMETERS, ".png") == []


def test_a_run_from_before_there_were_schedules_is_resumed(tmp_path: Path) -> None:
    with open_sink(tmp_path, "png", PARAMETERS) as sink:
        sink.write(request(0), finished(0))
    now = PARAMETERS | {"guidance_schedule": "constant"}
    assert requests_to_do(tmp_path, read_manifest(tmp_path), [request(0)], now, ".png") == []


@pytest.mark.parametrize(
    ("prompt", "parameters", "suffix", "said"),
    [
        ("a dog", PARAMETERS, ".png", "prompt was 'a cat', now 'a dog'"),
        ("a cat", {"model": "tiny", "rounds": 4}, ".png", "rounds was 2, now 4"),
        ("a cat", {"model": "other", "rounds": 2}, ".png", "model was 'tiny', now 'other'"),
        (
            "a cat",
            PARAMETERS | {"guidance_schedule": "linear"},
            ".png",
            "schedule was 'constant', now 'linear'",
        ),
        ("a cat", PARAMETERS, ".webp", "suffix was '.png', now '.webp'"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(
    tmp_path: Path, prompt: str, parameters: dict[str, Any], suffix: str, said: str
) -> None:
    with open_sink(tmp_path, "png", PARAMETERS) as sink:
        sink.write(request(0), finished(0))
    with pytest.raises(OutputError, match=said):
        requests_to_do(tmp_path, read_manifest(tmp_path), [request(0, prompt)], parameters, suffix)


def test_a_line_cut_short_by_a_kill_is_forgotten(tmp_path: Path) -> None:
    with open_sink(tmp_path, "png", PARAMETERS) as sink:
        for index in range(2):
            sink.write(request(index), finished(index))
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-20])
    assert list(read_manifest(tmp_path)) == [0]
    with open_sink(tmp_path, "png", PARAMETERS) as sink:
        sink.write(request(1), finished(1))
        assert list(read_manifest(tmp_path)) == [0, 1]  # as a kill at this moment would leave it
    assert list(read_manifest(tmp_path)) == [0, 1]


def test_a_manifest_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"name": "a web app"}\n')
    with pytest.raises(OutputError, match=r"manifest\.jsonl, line 1"):
        read_manifest(tmp_path)


def test_a_failure_inside_keeps_what_is_finished_and_leaves_no_scraps(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".000009-a-cat.png.tmp").write_bytes(b"from a killed run")
    with pytest.raises(KeyboardInterrupt), open_sink(out, "webp", PARAMETERS) as sink:
        sink.write(request(0), finished(0))
        raise KeyboardInterrupt
    assert names(out) == ["000000-a-cat.webp", "manifest.jsonl"]


def test_a_failure_before_the_first_picture_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_sink(tmp_path / "a" / "b", "png", PARAMETERS):
        raise RuntimeError("the engine does not start")
    assert list(tmp_path.iterdir()) == []


def test_two_runs_cannot_write_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from v2flow_engine.offline.sink import open_sink\n"
        "with open_sink(Path(sys.argv[1]), 'png', {}): pass"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with open_sink(tmp_path, "png", PARAMETERS):
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
    with pytest.raises(OutputError, match="cannot be created"), open_sink(Path("/proc/v2flow"), "png", {}):
        pass


def test_slugs_are_short_plain_names() -> None:
    assert slug("A 3D pizza, on/..\\blue") == "a-3d-pizza-on-blue"
    assert slug("猫 🐈") == "picture"
    assert len(slug("long " * 100)) <= 48
