"""What --prompt and --prompts name -> rows, one after the other: flags, files, folders, globs, URLs, standard input.

A source can be read again from its start; it holds one row in memory, or one batch of a Parquet file. Knows nothing of
models: which columns mean what, and whether a prompt is usable, is decided in `planning`.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from v2flow_engine.errors import DataError, V2FlowError
from v2flow_engine.offline.readers import READERS, RawRow

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

STDIN = "-"
INPUT_FORMATS = tuple(READERS)
SUFFIXES = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".tar": "webdataset",
}
UNCLEAR = (".json", ".tsv")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class SourceRow:
    """A row of the input.

    number: from 1, over the whole source. origin: where it stands, in words for an error message, such as
    "prompts.txt, line 7". columns: as they were found. problem: why it can't be read; "" if it can.
    """

    number: int
    origin: str
    columns: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class Source:
    """Rows that can be read again and again. `name` is for messages."""

    name: str

    def rows(self) -> Iterator[SourceRow]:
        """From the first row. Raises `DataError` if the source is missing, unreadable or vanishes."""
        for number, (origin, columns, problem) in enumerate(self.raw_rows(), start=1):
            yield SourceRow(number, origin, columns, problem)

    def raw_rows(self) -> Iterator[RawRow]:
        """As `rows`, not yet counted."""
        raise NotImplementedError


class FlagSource(Source):
    """The texts of repeated --prompt flags, taken as they are."""

    name = "--prompt"

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def raw_rows(self) -> Iterator[RawRow]:
        for number, text in enumerate(self.texts, start=1):
            yield f"--prompt {number}", {"prompt": text}, ""


class FileSource(Source):
    """One or several files on one file system.

    Args:
        name: as the user gave it.
        filesystem, paths: where the files are, in the order of reading.
        input_format: one of `INPUT_FORMATS`, or None to go by each file's suffix; text where that says nothing.
    """

    def __init__(
        self, name: str, filesystem: AbstractFileSystem, paths: Sequence[str], input_format: str | None
    ) -> None:
        self.name = name
        self.filesystem = filesystem
        self.paths = paths
        self.input_format = input_format

    def raw_rows(self) -> Iterator[RawRow]:
        for path in self.paths:
            shown = self.name if len(self.paths) == 1 else path
            with (
                told_as_data_error(shown),
                self.filesystem.open(path, "rb", compression=_compression(path)) as file,
            ):
                yield from READERS[self.input_format or _format_of(path)](file, shown)


def open_source(name: str, input_format: str | None = None, stdin: BinaryIO | None = None) -> Source:
    """The source that --prompts names. Raises `DataError` if there is no such thing.

    Args:
        name: a file, a folder (its files of known suffixes, those in folders below too), a glob, each of them local
            or an fsspec URL; "-" is standard input, which is copied to a temporary file first.
        input_format: one of `INPUT_FORMATS`; None goes by the suffix, for standard input by the first bytes.
    """
    if name == STDIN:
        return _StdinSource(stdin or sys.stdin.buffer, input_format)
    import fsspec

    with told_as_data_error(name):
        filesystem, path = fsspec.core.url_to_fs(name)
        if filesystem.isdir(path):
            paths = [p for p in sorted(filesystem.find(path)) if input_format or _suffix_of(p) in SUFFIXES]
            if not paths:
                known = ", ".join(SUFFIXES)
                raise DataError(f"{name}: cannot read prompts (a folder without files that end in {known})")
        elif any(sign in path for sign in "*?[") and not filesystem.exists(path):
            paths = [p for p in sorted(filesystem.glob(path)) if not filesystem.isdir(p)]
            if not paths:
                raise DataError(f"{name}: cannot read prompts (no file matches)")
        else:
            filesystem.info(path)
            paths = [path]
    return FileSource(name, filesystem, paths, input_format)


@contextlib.contextmanager
def told_as_data_error(source: str) -> Iterator[None]:
    """What keeps a source from being read, as a `DataError` that names it; this project's own errors pass.

    Stores and compressions raise what they like: an unknown protocol, a lost connection, an archive cut short.
    """
    try:
        yield
    except V2FlowError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{source}: cannot read prompts (No such file)") from error
    except OSError as error:
        raise DataError(f"{source}: cannot read prompts ({error.strerror or error})") from error
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{source}: cannot read prompts ({told})") from error


class _StdinSource(Source):
    """Standard input, kept in a temporary file: a job reads its input twice, first to check it."""

    name = "standard input"

    def __init__(self, stream: BinaryIO, input_format: str | None) -> None:
        self.file = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (it lives as long as this)
        with told_as_data_error(self.name):
            shutil.copyfileobj(stream, self.file)
        self.input_format = input_format or self._sniff()

    def raw_rows(self) -> Iterator[RawRow]:
        self.file.seek(0)
        with told_as_data_error(self.name):
            yield from READERS[self.input_format](self.file, self.name)

    def _sniff(self) -> str:
        self.file.seek(0)
        start = self.file.read(4096)
        if start.startswith(b"PAR1"):
            return "parquet"
        if start[257:262] == b"ustar":
            return "webdataset"
        return "jsonl" if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else "text"


def _compression(path: str) -> str | None:
    import fsspec

    name = _without_query(path)
    return fsspec.utils.infer_compression(name) if name.endswith(COMPRESSED) else None


def _without_query(path: str) -> str:
    """A signed URL has one behind its suffix."""
    return path.partition("?")[0]


def _suffix_of(path: str) -> str:
    """In lower case, without that of a compression."""
    pure = Path(_without_query(path))
    if pure.suffix in COMPRESSED:
        pure = pure.with_suffix("")
    return pure.suffix.lower()


def _format_of(path: str) -> str:
    """By the suffix. Raises `DataError` where reading lines of text is no use to anybody."""
    suffix = _suffix_of(path)
    if suffix in UNCLEAR:
        raise DataError(f"{path}: {suffix} may be several things; say which with --input-format")
    return SUFFIXES.get(suffix, "text")
