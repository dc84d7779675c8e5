"""Files, globs and folders become image files in a fixed order, each with its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.tokenizing.sources import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images at two levels, and what is none."""
    (tmp_path / "deep").mkdir()
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "deep/c.webp", "deep/d[1].png"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names(folder: Path, *given: str) -> list[str]:
    """What was found, relative to the folder; their numbers must count up."""
    found = find_images([str(folder / name) for name in given])
    assert [source.id for source in found] == list(range(len(found)))
    return [str(source.path.relative_to(folder)) for source in found]


def test_files_globs_and_folders(folder: Path) -> None:
    assert names(folder, "") == ["a.jpg", "b.PNG"]
    assert names(folder, "*.jpg", "deep") == ["a.jpg", "deep/c.webp", "deep/d[1].png"]
    assert names(folder, "**/*.[wj]*") == ["a.jpg", "deep/c.webp"]
    assert names(folder, "b.PNG", "missing.png", "notes.txt") == ["b.PNG", "missing.png", "notes.txt"]


def test_a_file_is_itself_before_it_is_a_pattern(folder: Path) -> None:
    assert names(folder, "deep/d[1].png") == ["deep/d[1].png"]


def test_nothing_is_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder .*empty holds no images"):
        find_images([str(folder / "empty")])
    with pytest.raises(DataError, match=r"no file matches .*\*\.gif"):
        find_images([str(folder / "*.gif")])
