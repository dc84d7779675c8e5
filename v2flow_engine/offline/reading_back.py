"""A folder that `v2flow generate` filled -> pictures and errors, read back from files and shards."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.offline.manifest import ManifestEntry

if TYPE_CHECKING:
    import pyarrow

ERRORS = "errors.jsonl"


def read_picture(directory: Path, entry: ManifestEntry) -> bytes:
    """The bytes of a picture's image file, wherever it is."""
    path = directory / entry.file
    if entry.row is not None:
        return _read_row(path, entry.row)
    with path.open("rb") as file:
        file.seek(entry.offset or 0)
        return file.read(entry.bytes)


def _read_row(path: Path, row: int) -> bytes:
    changed = path.stat().st_mtime_ns
    for group, count in enumerate(_group_sizes(path, changed)):
        if row < count:
            return _group(path, changed, group)[row]["bytes"].as_py()
        row -= count
    raise IndexError(f"{path} has no row {row} behind its last one")


@lru_cache(maxsize=1)
def _group_sizes(path: Path, changed: int) -> tuple[int, ...]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return tuple(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))


@lru_cache(maxsize=1)
def _group(path: Path, changed: int, group: int) -> pyarrow.ChunkedArray:
    """The pictures of a row group; kept for the next one, since a page asks for them in turn."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=["image"])["image"]


def read_errors(directory: Path, most: int) -> list[dict[str, Any]]:
    """The first lines of errors.jsonl; none if there is no such file."""
    return list(itertools.islice(iter_errors(directory), most))


def iter_errors(directory: Path) -> Iterator[dict[str, Any]]:
    """The lines of errors.jsonl; a last one that a kill cut short is left out."""
    try:
        file = (directory / ERRORS).open(encoding="utf-8")
    except FileNotFoundError:
        return
    with file:
        yield from (json.loads(line) for line in file if line.endswith("\n"))
