"""What a user names on the command line (files, globs, folders) -> image files, in order, each with its number.

Does not open them.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from v2flow_engine.errors import DataError


@dataclass(frozen=True)
class Source:
    """An image file. id: its place among all that were named, so that one that cannot be read moves no other."""

    id: int
    path: Path


def find_images(names: Sequence[str]) -> list[Source]:
    """Names -> image files.

    A folder stands for the files in it (not in its folders) whose suffix is that of a format which Pillow reads,
    hidden ones left out, sorted by name. What is no file and holds one of `*?[` is a glob pattern, `**` included.
    A file is taken as it is, there or not: reading it says what is wrong.

    Raises `DataError` for a folder without images and for a pattern that nothing matches.
    """
    paths = [path for name in names for path in _expand(name)]
    return [Source(number, path) for number, path in enumerate(paths)]


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        found = sorted(_images_in(path))
        if not found:
            raise DataError(f"the folder {name} holds no images")
        return found
    if not path.exists() and glob.has_magic(name):
        found = sorted(Path(match) for match in glob.glob(name, recursive=True) if Path(match).is_file())
        if not found:
            raise DataError(f"no file matches {name}")
        return found
    return [path]


def _images_in(folder: Path) -> Iterator[Path]:
    from PIL import Image

    formats = Image.registered_extensions()
    try:
        for path in folder.iterdir():
            known = formats.get(path.suffix.lower()) in Image.OPEN
            if known and path.is_file() and not path.name.startswith("."):
                yield path
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error
