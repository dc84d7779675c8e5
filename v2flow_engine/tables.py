"""A small table of text, its cells between tabs and its first line their names -> its rows, each with its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from v2flow_engine.errors import DataError
from v2flow_engine.text_files import read_text


def read_table(path: Path, columns: Sequence[str], what: str) -> Iterator[tuple[str, list[str]]]:
    """(place "FILE, line N", its cells, none empty) of each line below the header.

    what: names the content where the file cannot be read. Raises `DataError` naming the line for one that is not so.
    """
    lines = read_text(path, what).splitlines()
    expected = " TAB ".join(columns)
    if not lines or lines[0].split("\t") != list(columns):
        raise DataError(f"{path}, line 1: expected the header {expected}, got {''.join(lines[:1])!r}")
    for number, line in enumerate(lines[1:], start=2):
        place, cells = f"{path}, line {number}", [cell.strip() for cell in line.split("\t")]
        if len(cells) != len(columns) or not all(cells):
            raise DataError(f"{place}: expected {expected}, got {line!r}")
        yield place, cells
