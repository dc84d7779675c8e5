"""Where results may go, and files that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from v2flow_engine.errors import OutputError
from v2flow_engine.files import check_file, check_folder, told_as_output_error, write_whole


def test_new_places_are_fine_and_checking_makes_nothing(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "deeper")
    check_file(tmp_path / "new" / "codes.parquet")
    (tmp_path / "there").write_text("old")
    check_file(tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for check, path, expected in (
        (check_folder, blocked, "is not a folder"),
        (check_folder, blocked / "out", "cannot be created, .*file is not a folder"),
        (check_file, blocked / "codes.parquet", "cannot be created, .*file is not a folder"),
        (check_file, tmp_path, "is a folder, expected a file's name"),
        (check_file, Path("/dev/null"), "is no plain file"),
    ):
        with pytest.raises(OutputError, match=expected):
            check(path)


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    for data in (b"one", b"two"):
        write_whole(tmp_path / "some", data)
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("some", data)]


def test_the_system_s_refusal_names_the_place(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="nowhere: cannot be written"),
        told_as_output_error(Path("nowhere")),
    ):
        write_whole(tmp_path / "missing" / "file", b"")


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some").write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "some", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("some", b"old")]
