"""An open file -> raw rows: (origin, columns, problem), one reader for each format.

What is wrong with one row is that row's problem; what makes the rest of a file unreadable is a `DataError`.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from v2flow_engine.errors import DataError

if TYPE_CHECKING:
    import pyarrow

RawRow = tuple[str, dict[str, Any], str]
PARQUET_ROWS = 1024
# Bytes of each column; without it, whole columns of a row group are read, which may be the whole file.
PARQUET_BUFFER = 2**20
MAX_MEMBER_BYTES = 2**20  # of a tar's .json and .txt members
MAX_CSV_FIELD = 2**24  # characters; a quote that is never closed would take in the rest of the file


def read_text(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """A prompt per line, UTF-8. Blank lines and lines that begin with # are skipped."""
    for number, line in enumerate(file, start=1):
        origin = f"{name}, line {number}"
        text, problem = _decoded(line, number)
        if problem:
            yield origin, {"prompt": line.decode("utf-8", "replace").strip()}, problem
        elif text and not text.startswith("#"):
            yield origin, {"prompt": text}, ""


def read_jsonl(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """A JSON object per line; blank lines are skipped."""
    for number, line in enumerate(file, start=1):
        origin = f"{name}, line {number}"
        text, problem = _decoded(line, number)
        if not text and not problem:
            continue
        try:
            value = None if problem else json.loads(text)
        except (ValueError, RecursionError) as error:
            problem = f"not a JSON object ({error})"
        if problem:
            yield origin, {"line": line.decode("utf-8", "replace").strip()}, problem
        elif isinstance(value, dict):
            yield origin, value, ""
        else:
            yield origin, {"line": text}, f"not a JSON object but {type(value).__name__}"


def read_csv(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """A header, then a row per record; an empty field is an absent one."""
    # What is not UTF-8 comes through as lone surrogates, which a prompt may not have.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(MAX_CSV_FIELD)
    reader = csv.DictReader(text, restval="")
    try:
        for record in reader:
            surplus = record.pop(None, None)
            columns = {key: value for key, value in record.items() if value != ""}
            problem = ""
            if surplus is not None:
                problem = f"more fields than the header's {len(reader.fieldnames or [])}"
            yield f"{name}, line {reader.line_num}", columns, problem
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num}: not CSV ({error})") from error
    finally:
        text.detach()


def read_parquet(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """A row per row. Columns with binary values in them, such as pictures, are not read."""
    import pyarrow
    import pyarrow.parquet

    try:
        parquet = pyarrow.parquet.ParquetFile(file, buffer_size=PARQUET_BUFFER, pre_buffer=False)
        wanted = [field.name for field in parquet.schema_arrow if not _holds_bytes(field.type)]
        number = 0
        for batch in parquet.iter_batches(batch_size=PARQUET_ROWS, columns=wanted):
            for columns, problem in _rows_of(batch):
                number += 1
                yield f"{name}, row {number}", {k: v for k, v in columns.items() if v is not None}, problem
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{name}: not a readable Parquet file ({' '.join(str(error).split())})") from error


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    """Whether values of a type have bytes in them: a struct of bytes and path is how `datasets` keeps pictures."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    is_bytes = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(each(kind) for each in is_bytes) or any(
        _holds_bytes(kind.field(i).type) for i in range(kind.num_fields)
    )


def _rows_of(batch: pyarrow.RecordBatch) -> Iterator[tuple[dict[str, Any], str]]:
    """Columns and problem of each row; text that is not UTF-8 is the problem of its row alone."""
    try:
        yield from ((columns, "") for columns in batch.to_pylist())
        return
    except UnicodeDecodeError:
        pass
    for i in range(batch.num_rows):
        try:
            (columns,) = batch.slice(i, 1).to_pylist()
            yield columns, ""
        except UnicodeDecodeError as error:
            yield {}, f"text must be UTF-8 ({error.reason})"


def read_webdataset(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """A row per sample of a tar: the object in KEY.json, the prompt in KEY.txt; other members are passed over.

    A sample without either is a row without a prompt. The key is the column `__key__`.
    """
    key, columns, problem = None, {}, ""
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep them all
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                member_key = f"{folder}/{stem}" if folder else stem
                if member_key != key:
                    if key is not None:
                        yield f"{name}, sample {key}", columns, problem
                    key, columns, problem = member_key, {"__key__": member_key}, ""
                if suffix in ("json", "txt") and not problem:
                    problem = _add_member(tar, member, suffix, columns)
    except tarfile.TarError as error:
        raise DataError(f"{name}: not a readable tar ({error})") from error
    if key is not None:
        yield f"{name}, sample {key}", columns, problem


def _add_member(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, columns: dict[str, Any]) -> str:
    """Put a member's content into the columns; returns what is wrong with it."""
    if member.size > MAX_MEMBER_BYTES:
        return f"{member.name} has {member.size} bytes, expected at most {MAX_MEMBER_BYTES}"
    extracted = tar.extractfile(member)
    data = extracted.read() if extracted is not None else b""
    try:
        if suffix == "txt":
            columns.setdefault("prompt", data.decode("utf-8-sig").strip())
            return ""
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return f"{member.name} cannot be read ({error})"
    if not isinstance(value, dict):
        return f"{member.name} holds no JSON object but {type(value).__name__}"
    columns |= value
    return ""


def _decoded(line: bytes, number: int) -> tuple[str, str]:
    """A line as text without what surrounds it, or why it is none."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip(), ""
    except UnicodeDecodeError as error:
        return "", f"prompts must be UTF-8 text ({error.reason} at byte {error.start} of the line)"


READERS: dict[str, Callable[[BinaryIO, str], Iterator[RawRow]]] = {
    "text": read_text,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
    "webdataset": read_webdataset,
}
