"""A folder of images with captions -> which images there are, what is said of them, and which are held out.

Captions stand in `metadata.jsonl` or `metadata.csv` with the columns `file_name` and `text` (or `caption`), as in the
Hugging Face imagefolder form, or in a .txt beside each image. With a metadata file its images are the dataset, without
one all images in the folder and below it. Knows nothing of pixels.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from v2flow_engine.errors import DataError
from v2flow_engine.text_files import numbered_lines, read_text

IMAGE_SUFFIXES = (".webp", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
METADATA = ("metadata.jsonl", "metadata.csv")
CAPTION_COLUMNS = ("text", "caption")


def list_images(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """All images of a folder and their records, sorted by name.

    Returns:
        (path, {"file_name": relative to the folder, "caption": ...}); no "caption" where there is none, which is enough
        for training that reads no captions. Raises `DataError` for a folder without images, for unreadable metadata
        (naming the line) and for a listed image that is not there.
    """
    present = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(present) > 1:
        raise DataError(f"{folder}: {' and '.join(METADATA)}; expected one of them")
    records = list(_listed(present[0]) if present else _found(folder))
    if not records:
        raise DataError(f"{present[0] if present else folder}: no images ({', '.join(IMAGE_SUFFIXES)})")
    return sorted(records, key=lambda pair: pair[1]["file_name"])


def is_held_out(file_name: str, share: float) -> bool:
    """Whether an image is among the share that is not trained on: by a hash of its name, so it stays there for good."""
    digest = hashlib.sha256(file_name.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _found(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            record = {"file_name": path.relative_to(folder).as_posix()}
            beside = path.with_suffix(".txt")
            if beside.is_file():
                caption = " ".join(read_text(beside, "caption", encoding="utf-8-sig").split())
                record |= {"caption": caption} if caption else {}
            yield path, record


def _listed(metadata: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    seen: dict[str, int] = {}
    for line, row in _rows(metadata):
        where, name = f"{metadata}, line {line}", row.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: expected a file_name, got {sorted(map(str, row))}")
        if name in seen:
            raise DataError(f"{where}: {name} is in line {seen[name]} already")
        seen[name] = line
        path = metadata.parent / name
        if not path.is_file():
            raise DataError(f"{where}: no image {path}")
        # No other column: "label" and its like would be taken for the parts of an emoji's caption.
        caption = next((row[column] for column in CAPTION_COLUMNS if row.get(column)), None)
        if caption is not None and not isinstance(caption, str):
            raise DataError(f"{where}: expected a text as caption, got {caption!r}")
        yield path, {"file_name": name} | ({"caption": caption} if caption else {})


def _rows(metadata: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a metadata file."""
    text = read_text(metadata, "captions", encoding="utf-8-sig")
    if metadata.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text))
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{metadata}, line {reader.line_num}: not readable ({error})") from error
        return
    for number, line in numbered_lines(text):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{metadata}, line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{metadata}, line {number}: expected a JSON object, got {type(row).__name__}")
        yield number, row
