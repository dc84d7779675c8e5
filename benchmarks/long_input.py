"""Prompts by the million, in every format that `v2flow generate` reads. Written row by row, but for Parquet."""

from __future__ import annotations

import csv
import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path


def long_rows(count: int, note_bytes: int) -> Iterator[dict[str, str]]:
    """Rows with an id and a column that is passed through; they do not compress well and share no value."""
    draw = random.Random(0)
    for number in range(count):
        note = draw.randbytes(note_bytes).hex()
        yield {"prompt": f"a red apple {number}", "id": f"row-{number}", "note": note}


def write_text(path: Path, count: int, note_bytes: int) -> None:
    """The prompts alone."""
    with path.open("w") as file:
        file.writelines(row["prompt"] + "\n" for row in long_rows(count, note_bytes))


def write_jsonl(path: Path, count: int, note_bytes: int) -> None:
    """An object per line."""
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in long_rows(count, note_bytes))


def write_csv(path: Path, count: int, note_bytes: int) -> None:
    """With a header."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "id", "note"])
        writer.writeheader()
        writer.writerows(long_rows(count, note_bytes))


def write_parquet(path: Path, count: int, note_bytes: int) -> None:
    """In one row group, as pyarrow does by default up to a million rows."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, list[str]] = {"prompt": [], "id": [], "note": []}
    for row in long_rows(count, note_bytes):
        for name, value in row.items():
            columns[name].append(value)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=count)


def write_webdataset(path: Path, count: int, note_bytes: int) -> None:
    """Samples of a JSON object, and of a picture that is passed over."""
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(long_rows(count, note_bytes)):
            for suffix, data in (("json", json.dumps(row).encode()), ("jpg", b"picture")):
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            tar.members.clear()


WRITERS = {
    "text": write_text,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "parquet": write_parquet,
    "webdataset": write_webdataset,
}
