"""Codes in Parquet: what was written is read, a broken run leaves nothing, foreign files are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from v2flow_engine.checkpoint import open_model
from v2flow_engine.errors import DataError
from v2flow_engine.tokenizing.batches import Origin
from v2flow_engine.tokenizing.codes_file import EncodedImage, check_codes, open_codes_file, read_codes_file


def encoded(number: int, pad_color: str | None = None) -> EncodedImage:
    """A row for the tiny model."""
    origin = Origin(number, f"picture {number}.png", 90, 70, "64x64", "pad", pad_color)
    return EncodedImage(origin, [(number + i) % 64 for i in range(16)], "tiny", "0123456789abcdef")


def test_rows_survive(tmp_path: Path) -> None:
    path = tmp_path / "new" / "codes.parquet"
    rows = [encoded(0), encoded(3, "#ffcc00"), encoded(2)]
    with open_codes_file(path) as codes_file:
        codes_file.write(rows[:2])
        codes_file.write(rows[2:])
        assert not path.exists()
    assert codes_file.rows == 3
    assert read_codes_file(path) == rows
    assert [each.name for each in path.parent.iterdir()] == ["codes.parquet"]
    assert pq.read_schema(path).field("codes").type == pa.list_(pa.int32())


def test_a_run_that_breaks_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), open_codes_file(path) as codes_file:
        codes_file.write([encoded(0)])
        raise KeyboardInterrupt
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("codes.parquet", "old")]


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    good = [encoded(0).to_row(), encoded(1).to_row()]
    for rows, expected in (
        ([{"text": "hello"}], r"columns \['id', 'path'.*are missing"),
        ([{**row, "codes": "hello"} for row in good], "holds no codes"),
        ([{**row, "size": None} for row in good], "holds no codes"),
        ([{**row, "id": 4} for row in good], "an id of its own"),
        ([{**row, "id": row["id"] - 1} for row in good], "not negative"),
    ):
        pq.write_table(pa.Table.from_pylist(rows), path)
        with pytest.raises(DataError, match=expected):
            read_codes_file(path)
    pq.write_table(pa.Table.from_pylist(good).slice(0, 0), path)
    with pytest.raises(DataError, match="holds no rows"):
        read_codes_file(path)
    path.write_text("hello")
    for each in (path, tmp_path / "missing.parquet"):
        with pytest.raises(DataError, match=f"{each} is no Parquet file that can be read"):
            read_codes_file(each)


def test_rows_that_the_model_cannot_decode_are_named(model: Path) -> None:
    folder, good = open_model(model), encoded(0)
    check_codes([good], folder, good.codebook, Path("codes.parquet"))
    for bad, expected in (
        (replace(good, codebook="f" * 16), "row 1: encoded with codebook f+ of tiny; tiny has codebook 0123"),
        (replace(good, origin=replace(good.origin, size="32x32")), "row 1: size '32x32' is not one of"),
        (replace(good, codes=good.codes[1:]), r"row 1: expected 16 codes in \[0, 64\), got .* 15 in all"),
        (replace(good, codes=[64] * 16), r"row 1: expected 16 codes in \[0, 64\), got \[64, "),
        (replace(good, codes=[None] * 16), "row 1: expected 16 codes"),
    ):
        with pytest.raises(DataError, match=expected):
            check_codes([good, bad], folder, good.codebook, Path("codes.parquet"))
