"""A user's text file -> its content, or one line that says why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from v2flow_engine.errors import DataError


def read_text(path: Path, what: str, encoding: str = "utf-8") -> str:
    """The file's content; `what` names it where that cannot be. Raises `DataError`, for what is not UTF-8 too."""
    try:
        return path.read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"the {what} {path} cannot be read: {reason}") from error


def numbered_lines(content: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1 on.

    Only a line feed ends one: a string of JSON may hold what `str.splitlines` takes for an end, such as U+2028.
    """
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield number, line
