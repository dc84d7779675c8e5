"""What ends a job early: too many errors, a full disk, a folder that cannot be written.

In all of them the exit status and one line say so, and what is finished stays and is not made again. The engine has no
part in it: pictures that nobody drew take its place.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.offline.hindrances import forbid_writing, limit_files, limits_end, rights_end
from tests.offline.pictures import finished
from tests.offline.rows import TOO_LONG, write_rows
from v2flow_engine.cli import main
from v2flow_engine.errors import OutputError
from v2flow_engine.generation.pipeline import DECODER_BATCH
from v2flow_engine.offline.run import JobRun
from v2flow_engine.offline.sink import check_out
from v2flow_engine.offline.stages import FinishedImage

PICTURE_BYTES = 50_000


def lines(path: Path) -> list[dict]:
    """Of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files(out: Path) -> dict[str, int]:
    """Pictures with the time of their last change."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put ready pictures in the engine's place: `before` is called with the number of each, `failing` is a prompt."""

    def put(before: Callable[[int], None] = lambda number: None, failing: str = "") -> None:
        def stream(self: JobRun) -> Iterator[FinishedImage]:
            for number, request in enumerate(itertools.chain.from_iterable(self._batches(DECODER_BATCH))):
                before(number)
                picture = random.Random(request.index).randbytes(PICTURE_BYTES)
                yield finished(request.index, picture, "lost" if request.prompt == failing else "")

        monkeypatch.setattr(JobRun, "_stream_here", stream)

    return put


@pytest.fixture
def argv(model_dir: Path, tmp_path: Path) -> list[str]:
    """Of a job in tmp_path: rows.jsonl -> out."""
    rows, out = str(tmp_path / "rows.jsonl"), str(tmp_path / "out")
    return ["generate", "--model", str(model_dir), "--prompts", rows, "--out", out]


def test_rows_that_are_bad_from_the_start_keep_the_job_from_starting(
    tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "rows.jsonl", {"prompt": "a cat"}, {"n": 1}, {"prompt": "a dog", "rounds": 0})
    assert main([*argv, "--max-errors", "1"]) == 2
    said = capsys.readouterr().err
    assert "2 of 3 rows can't be made, more than --max-errors 1; the first: " in said
    assert not (tmp_path / "out").exists()


def test_more_errors_than_allowed_stop_the_job_and_keep_the_rest(
    tmp_path: Path, argv: list[str], drawn: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors of the engine and of prompts that turn out to be too long count alike, a row once for all its pictures."""
    out = tmp_path / "out"
    good = [{"prompt": f"cat {number}"} for number in range(4)]
    bad = [{"prompt": "bad", "n": 2}, good[2], {"prompt": TOO_LONG, "n": 2}]
    write_rows(tmp_path / "rows.jsonl", *good[:2], *bad, good[3])
    drawn(failing="bad")
    assert main([*argv, "--max-errors", "1"]) == 1
    assert (
        "stopped: more than --max-errors 1 rows failed; 2 images of 8 kept, run it again"
        in capsys.readouterr().err
    )
    first = files(out)
    assert len(first) == len(lines(out / "manifest.jsonl")) == 2
    assert {line["row"] for line in lines(out / "errors.jsonl")} == {3, 5}
    assert json.loads((out / "metrics.json").read_text())["stopped"].startswith("stopped: more than")

    assert main([*argv, "--max-errors", "2"]) == 1  # as many as allowed
    assert "4 images failed, the first: " in capsys.readouterr().err
    assert len(lines(out / "errors.jsonl")) == len(lines(out / "manifest.jsonl")) == 4
    assert first.items() <= files(out).items()


def test_a_row_that_is_bad_in_all_its_pictures_is_one_row(
    tmp_path: Path, argv: list[str], drawn: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also before the job starts."""
    write_rows(tmp_path / "rows.jsonl", {"prompt": TOO_LONG, "n": 5}, {"prompt": "a cat"})
    drawn()
    assert main([*argv, "--max-errors", "1"]) == 1
    assert "5 images failed" in capsys.readouterr().err
    assert main([*argv, "--out", str(tmp_path / "none"), "--max-errors", "0"]) == 2
    assert "1 of 2 rows can't be made, more than --max-errors 0" in capsys.readouterr().err


def test_a_full_disk_ends_the_job_in_one_line(
    tmp_path: Path, argv: list[str], drawn: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    write_rows(tmp_path / "rows.jsonl", *({"prompt": f"cat {number}"} for number in range(5)))
    drawn(before=lambda number: limit_files(20_000) if number == 2 else None)
    with limits_end():
        assert main(argv) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"v2flow: error: {out}: cannot be written (File too large); 2 images made so far, run it again to go on"
    )
    first = files(out)
    assert len(first) == len(lines(out / "manifest.jsonl")) == 2
    assert not list(out.glob(".*"))

    drawn()
    assert main(argv) == 0
    assert len(lines(out / "manifest.jsonl")) == 5
    assert first.items() <= files(out).items()


def test_a_disk_that_is_full_at_the_very_end_costs_no_picture(
    tmp_path: Path, argv: list[str], drawn: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The sheet holds all pictures, and is larger than any of them."""
    out = tmp_path / "out"
    write_rows(tmp_path / "rows.jsonl", *({"prompt": f"cat {number}"} for number in range(4)))
    drawn(before=lambda number: limit_files(2 * PICTURE_BYTES))
    with limits_end():
        assert main(argv) == 2
    assert f"{out}: cannot be written (File too large); 4 images" in capsys.readouterr().err.splitlines()[-1]
    first = files(out)
    assert len(first) == len(lines(out / "manifest.jsonl")) == 4
    assert main(argv) == 0
    assert files(out) == first
    assert (out / "index.html").exists()


def test_a_folder_that_may_no_longer_be_written_ends_the_job_in_one_line(
    tmp_path: Path, argv: list[str], drawn: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "rows.jsonl", *({"prompt": f"cat {number}"} for number in range(5)))
    with tempfile.TemporaryDirectory() as folder:  # pytest's own ones are closed to others
        Path(folder).chmod(0o755)
        out = Path(folder) / "out"
        out.mkdir()
        argv = [*argv[:-1], str(out)]
        drawn(before=lambda number: forbid_writing(out) if number == 3 else None)
        with rights_end(out):
            assert main(argv) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"{out}: cannot be written (Permission denied); 3 images made so far" in said
        assert len(files(out)) == len(lines(out / "manifest.jsonl")) == 3
        with rights_end(out):
            forbid_writing(out)
            with pytest.raises(OutputError, match="no permission to write there"):
                check_out(out)
        drawn()
        assert main(argv) == 0
        assert len(files(out)) == len(lines(out / "manifest.jsonl")) == 5
