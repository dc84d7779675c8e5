"""Codes of images <-> a Parquet file, a row for each image.

id int64, path string, width int32, height int32   the image, as it was found
size string, fit string, pad_color string or null  what it was brought to, and how
codes list<int32>                                  its visual tokens in raster order, each in [0, K)
model string, codebook string                      who encoded it; digest of the codebook that gives codes meaning
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import DataError
from v2flow_engine.files import temporary_name, told_as_output_error
from v2flow_engine.tokenizing.batches import Origin

if TYPE_CHECKING:
    import pyarrow

    from v2flow_engine.checkpoint import TokenizerFolder


@dataclass(frozen=True)
class EncodedImage:
    """A row. codes: S whole numbers in [0, K); codebook: `ImageTokenizer.codebook_digest`."""

    origin: Origin
    codes: list[int]
    model: str
    codebook: str

    def to_row(self) -> dict[str, Any]:
        """Flat, by column."""
        return {**asdict(self.origin), "codes": self.codes, "model": self.model, "codebook": self.codebook}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> EncodedImage:
        """The inverse of `to_row`; takes the row apart."""
        own = {name: row.pop(name) for name in ("codes", "model", "codebook")}
        return cls(Origin(**row), **own)


def schema() -> pyarrow.Schema:
    """The columns and their types."""
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    required = {
        "id": pa.int64(),
        "path": text,
        "width": number,
        "height": number,
        "size": text,
        "fit": text,
        "codes": pa.list_(number),
        "model": text,
        "codebook": text,
    }
    fields = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    return pa.schema([*fields[:6], pa.field("pad_color", text), *fields[6:]])


class CodesWriter:
    """Appends rows to the file that `open_codes_file` opened."""

    def __init__(self, writer: Any, place: Path) -> None:
        self._writer, self._place = writer, place
        self.rows = 0

    def write(self, images: Sequence[EncodedImage]) -> None:
        """Add a row for each; raises `OutputError`."""
        import pyarrow as pa

        with told_as_output_error(self._place):
            self._writer.write_table(pa.Table.from_pylist([each.to_row() for each in images], schema()))
        self.rows += len(images)


@contextlib.contextmanager
def open_codes_file(path: Path) -> Iterator[CodesWriter]:
    """A file that appears, or replaces the one that is there, when the block ends well; else nothing is left.

    Raises `OutputError`.
    """
    import pyarrow.parquet as pq

    growing = temporary_name(path)
    try:
        with told_as_output_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = pq.ParquetWriter(growing, schema())
        with writer:
            yield CodesWriter(writer, path)
        with told_as_output_error(path):
            growing.replace(path)
    finally:
        growing.unlink(missing_ok=True)


def read_codes_file(path: Path) -> list[EncodedImage]:
    """All rows, in their order. Raises `DataError` for a file that is missing or not of this form."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(f"{path} is no Parquet file that can be read: {reason}") from error
    names = schema().names
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path} holds no codes: columns {missing} are missing; expected a file of v2flow encode"
        )
    try:
        table = table.select(names).cast(schema())
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path} holds no codes: {str(error).splitlines()[0]}") from error
    rows = [EncodedImage.from_row(row) for row in table.to_pylist()]
    if not rows:
        raise DataError(f"{path} holds no rows")
    ids = {row.origin.id for row in rows}
    if len(ids) != len(rows) or min(ids) < 0:
        raise DataError(f"{path}: each row needs an id of its own, not negative")
    return rows


def check_codes(rows: Sequence[EncodedImage], folder: TokenizerFolder, codebook: str, source: Path) -> None:
    """Raise `DataError` naming the first row that this model cannot decode.

    codebook: the model's own `ImageTokenizer.codebook_digest`.
    """
    codebook_size = folder.visual_tokenizer_config.codebook_size
    for number, row in enumerate(rows):
        size, where = row.origin.size, f"{source}, row {number}"
        if row.codebook != codebook:
            raise DataError(
                f"{where}: encoded with codebook {row.codebook} of {row.model}; "
                f"{folder.config.name} has codebook {codebook}"
            )
        if size not in folder.grids:
            raise DataError(f"{where}: size {size!r} is not one of this model's: {', '.join(folder.grids)}")
        expected = math.prod(folder.grids[size])
        if len(row.codes) != expected or not all(
            code is not None and 0 <= code < codebook_size for code in row.codes
        ):
            raise DataError(
                f"{where}: expected {expected} codes in [0, {codebook_size}), got {row.codes[:5]}..., "
                f"{len(row.codes)} in all"
            )
