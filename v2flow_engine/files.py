"""Where results go: can it be written there, and files that appear under their name only when they are whole.

Knows nothing of what is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from v2flow_engine.errors import OutputError

_MAX_SLUG = 48


def slug(text: str) -> str:
    """A text as part of a file name: lower-case ASCII words joined by "-", at most 48 characters."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return words[:_MAX_SLUG].rstrip("-") or "picture"


def check_folder(directory: Path) -> None:
    """Raise `OutputError` unless the folder is there and writable, or can be created. Changes nothing."""
    if not directory.is_dir():
        if os.path.lexists(directory):
            raise OutputError(f"{directory}: is not a folder")
        _check_creatable(directory)
    elif not os.access(directory, os.W_OK | os.X_OK):
        raise OutputError(f"{directory}: no permission to write there")


def visible_names(directory: Path) -> list[str]:
    """Names in a folder, sorted, hidden ones left out; none where there is no folder."""
    if not directory.is_dir():
        return []
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def check_file(path: Path) -> None:
    """Raise `OutputError` unless a file can be written there, in place of one that is there. Changes nothing."""
    if path.exists() and not path.is_file():
        raise OutputError(
            f"{path}: is {'a folder' if path.is_dir() else 'no plain file'}, expected a file's name"
        )
    _check_creatable(path)


def _check_creatable(path: Path) -> None:
    ancestor = path.absolute().parent
    while not os.path.lexists(ancestor):
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise OutputError(f"{path}: cannot be created, {ancestor} is not a folder")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be created, no permission to write in {ancestor}")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step: under its name it is whole or not there, and nothing else is left if interrupted."""
    temporary = temporary_name(path)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well and is removed when it does not.

    Raises `OutputError` if `out` is there and not empty, and for what the system says against writing.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out}: exists already; it must be a new or empty folder")
    check_folder(out)
    building = out.resolve().with_name(out.resolve().name + ".building")
    with told_as_output_error(out):
        shutil.rmtree(building, ignore_errors=True)
        try:
            building.mkdir(parents=True)
            yield building
            if out.exists():
                out.rmdir()
            building.rename(out)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """A file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mebibytes(folder: Path) -> float:
    """Size of all files below a folder, in MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def temporary_name(path: Path) -> Path:
    """Where a file grows until it is whole: beside it, hidden."""
    return path.with_name(f".{path.name}.tmp")


@contextlib.contextmanager
def replaced_durably(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to fill, in text or in bytes, which takes a path's place in one step when it is on the disk.

    An error leaves it under its temporary name, and what was there as it was.
    """
    with temporary_name(path).open(mode, encoding=None if "b" in mode else "utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary_name(path).replace(path)


def sync_folder(directory: Path) -> None:
    """Make names in a folder as lasting as the files."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def whole_name(name: str) -> str:
    """The name that a file of `temporary_name` is to have; that of any other file is its own."""
    return name[1:-4] if name.startswith(".") and name.endswith(".tmp") else name


@contextlib.contextmanager
def told_as_output_error(place: Path) -> Iterator[None]:
    """What the system says against writing to a place, as an `OutputError` that names it."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{place}: cannot be written ({error.strerror or error})") from error
