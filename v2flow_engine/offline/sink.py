"""Finished pictures -> a folder: files or shards, a manifest of what is finished, a list of what failed.

A picture appears under its name only when it is whole, and in the manifest only when it is there. Knows nothing of
engines or of Ray. May be used from several threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v2flow_engine.errors import OutputError
from v2flow_engine.files import check_folder, slug, told_as_output_error, visible_names, write_whole
from v2flow_engine.offline.identity import KeySet
from v2flow_engine.offline.manifest import MANIFEST, ManifestEntry, sort_manifest
from v2flow_engine.offline.metrics import METRICS
from v2flow_engine.offline.planning import BadRow, Picture
from v2flow_engine.offline.reading_back import ERRORS
from v2flow_engine.offline.resume import Finished, discard, needs_repair, read_finished, repair
from v2flow_engine.offline.shards import (
    CONTAINERS,
    SHARD_KINDS,
    SHARDS,
    Sample,
    Shard,
    read_shards,
    shard_line,
)
from v2flow_engine.offline.stages import FinishedImage

SUFFIX_OF = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
FLAT_UP_TO = 10_000  # pictures in one folder; larger jobs get folders of PER_FOLDER
PER_FOLDER = 1_000
BATCHES = "batches.json"
_OWN = (MANIFEST, ERRORS, SHARDS, METRICS, BATCHES)


@dataclass(frozen=True)
class OutputFormat:
    """How pictures are kept. container: "files", "webdataset" or "parquet". image: "png", "webp" or "jpeg".

    shard_pictures, shard_bytes: a shard is full at either; None is no limit.
    """

    container: str = "files"
    image: str = "png"
    shard_pictures: int | None = 1000
    shard_bytes: int | None = 256 * 2**20

    @classmethod
    def of(cls, name: str, image: str | None = None, **shard: int) -> OutputFormat:
        """From --format, an image format or a container, and --image-format. shard: limits; one that is named rules
        alone."""
        limits = {"shard_pictures": None, "shard_bytes": None} | shard if shard else {}
        if name in CONTAINERS:
            return cls(name, image or "png", **limits)
        if image not in (None, name):
            raise OutputError(f"--image-format {image} is for {' and '.join(CONTAINERS)}; --format is {name}")
        return cls("files", name, **limits)

    def is_full(self, shard: Shard) -> bool:
        """Whether nothing more goes into a shard."""
        return (self.shard_pictures is not None and shard.pictures >= self.shard_pictures) or (
            self.shard_bytes is not None and shard.image_bytes >= self.shard_bytes
        )

    @property
    def label(self) -> str:
        """As in a manifest: "png", "webdataset/png"."""
        return self.image if self.container == "files" else f"{self.container}/{self.image}"


def check_out(directory: Path) -> None:
    """Raise `OutputError` if the folder cannot be written to or is somebody else's. Changes nothing.

    A folder that exists must be empty or hold a manifest; hidden files do not count.
    """
    check_folder(directory)
    foreign = visible_names(directory)
    if foreign and not set(_OWN) & set(foreign):
        raise OutputError(
            f"{directory}: holds other files ({foreign[0]}); give an empty or a new folder as --out"
        )


class Sink:
    """The output folder of one job, held by one process at a time. Use `open_sink`."""

    def __init__(
        self, directory: Path, output: OutputFormat, model: dict[str, Any], pictures: int, changed: KeySet
    ) -> None:
        self.directory = directory
        self.output = output
        self.model = model
        self.flat = pictures <= FLAT_UP_TO
        self.written = 0
        # their numbers: pictures of a row fail one after the other, or batches apart
        self._failed_rows = KeySet()
        self.failed_pictures = 0
        self.first_error = ""
        self.finished = self._open(changed)
        self.rows_per_batch = read_rows_per_batch(directory)
        self._lock = threading.Lock()
        self._shard: Shard | None = None
        self._waiting: list[ManifestEntry] = []  # the manifest lines of the shard that grows
        self._manifest = (directory / MANIFEST).open("a", encoding="utf-8")
        (directory / ERRORS).unlink(missing_ok=True)  # what failed is tried again
        self._errors = None

    def _open(self, changed: KeySet) -> Finished:
        if len(changed):
            discard(self.directory, changed)
        finished = read_finished(self.directory)
        if needs_repair(self.directory, finished):
            repair(self.directory)
        self._next_shard = 1 + max(
            (int(name.removeprefix("shard-").partition(".")[0]) for name in read_shards(self.directory)),
            default=-1,
        )
        return finished

    @property
    def kept(self) -> int:
        """Finished pictures in the folder; those of a shard that grows do not count yet."""
        return len(self.finished) + self.written - len(self._waiting)

    @property
    def failed_rows(self) -> int:
        """Rows of which a picture or all of them could not be made."""
        return len(self._failed_rows)

    def keep_rows_per_batch(self, rows: int) -> None:
        """Note how large the batches of this job are, so that a run that goes on makes the same ones."""
        with told_as_output_error(self.directory):
            write_whole(self.directory / BATCHES, json.dumps({"rows_per_batch": rows}).encode() + b"\n")
        self.rows_per_batch = rows

    def write(self, picture: Picture, finished: FinishedImage) -> None:
        """Keep a picture, or note why there is none. Raises `OutputError`."""
        if finished.error:
            self.fail(BadRow(picture.row, finished.error, picture.request.index, 1), picture)
            return
        with self._lock, told_as_output_error(self.directory):
            if self.output.container == "files":
                entry = self._write_file(picture, finished)
                self._manifest.write(entry.to_line())
                self._manifest.flush()
            else:
                self._write_to_shard(picture, finished)
            self.written += 1

    def fail(self, bad: BadRow, picture: Picture | None = None) -> None:
        """Note a row, or one picture of it, that could not be made."""
        line: dict[str, Any] = {"row": bad.row.number, "id": picture.id if picture else bad.index}
        line["prompt"] = picture.request.prompt if picture else bad.row.columns.get("prompt")
        if picture:
            line["seed"] = picture.request.seed
        line |= {"error": bad.reason, "pictures": bad.count, "columns": bad.row.columns}
        with self._lock, told_as_output_error(self.directory):
            if self._errors is None:
                self._errors = (self.directory / ERRORS).open("a", encoding="utf-8")
            self._errors.write(json.dumps(line, default=str) + "\n")
            self._errors.flush()
            self._failed_rows.add(bad.row.number)
            self.failed_pictures += bad.count
            self.first_error = self.first_error or bad.reason

    def close(self, *, whole: bool) -> None:
        """End the last shard, and bring the manifest in order; `whole` is False after a failure to write."""
        with self._lock:
            if not whole:
                self._give_up()
                return
            with told_as_output_error(self.directory):
                self._end_shard()
                self._manifest.close()
                if self._errors is not None:
                    self._errors.close()
                if self.kept:
                    sort_manifest(self.directory)
                elif self._errors is None:
                    (self.directory / MANIFEST).unlink()
                    (self.directory / BATCHES).unlink(missing_ok=True)

    def _give_up(self) -> None:
        for file in (self._manifest, self._errors):
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()
        if self._shard is not None:
            self._shard.discard()

    def _entry(
        self, picture: Picture, finished: FinishedImage, file: str, place: dict[str, int]
    ) -> ManifestEntry:
        request = picture.request
        return ManifestEntry(
            id=picture.id,
            prompt=request.prompt,
            seed=request.seed,
            parameters=self.model | request.parameters.to_dict(),
            file=file,
            sha256=hashlib.sha256(finished.image).hexdigest(),
            bytes=len(finished.image),
            seconds=round(finished.seconds, 4),
            index=request.index,
            format=self.output.label,
            timings={name: round(value, 4) for name, value in finished.timings.items()},
            extra=picture.extra or None,
            **place,
        )

    def _write_file(self, picture: Picture, finished: FinishedImage) -> ManifestEntry:
        index = picture.request.index
        name = f"{index:06d}-{slug(picture.request.prompt)}{_mark(picture)}{SUFFIX_OF[self.output.image]}"
        if not self.flat:
            folder = f"{index // PER_FOLDER:05d}"
            (self.directory / folder).mkdir(exist_ok=True)
            name = f"{folder}/{name}"
        write_whole(self.directory / name, finished.image)
        return self._entry(picture, finished, name, {})

    def _write_to_shard(self, picture: Picture, finished: FinishedImage) -> None:
        if self._shard is None:
            kind, suffix = SHARD_KINDS[self.output.container]
            self._shard = kind(self.directory / f"shard-{self._next_shard:06d}{suffix}")
            self._next_shard += 1
        shard = self._shard
        request = picture.request
        record = {"id": picture.id, "prompt": request.prompt, "seed": request.seed}
        record["parameters"] = self.model | request.parameters.to_dict()
        if picture.extra:
            record["extra"] = picture.extra
        suffix = SUFFIX_OF[self.output.image]
        name = f"{request.index:09d}{_mark(picture)}"
        place = shard.add(Sample(request.index, name, finished.image, suffix, record))
        self._waiting.append(self._entry(picture, finished, shard.path.name, place))
        if self.output.is_full(shard):
            self._end_shard()

    def _end_shard(self) -> None:
        """The shard's name, its manifest lines, then the line that makes it count; each synced before the next."""
        if self._shard is None:
            return
        record = self._shard.finish()
        self._shard = None
        self._manifest.write("".join(entry.to_line() for entry in self._waiting))
        self._waiting = []
        self._manifest.flush()
        os.fsync(self._manifest.fileno())
        with (self.directory / SHARDS).open("a", encoding="utf-8") as file:
            file.write(shard_line(record))
            file.flush()
            os.fsync(file.fileno())


def _mark(picture: Picture) -> str:
    """What tells a picture from all others at its place in the job: rows with ids may move, and others take theirs."""
    return f"-{picture.key:016x}" if isinstance(picture.id, str) else ""


@contextlib.contextmanager
def open_sink(
    directory: Path,
    output: OutputFormat,
    model: dict[str, Any],
    *,
    pictures: int = 0,
    changed: KeySet | None = None,
) -> Iterator[Sink]:
    """Create the folder if needed, and hold it until the end; on an error, leave no empty folder behind.

    Args:
        model: what names the model in every picture's parameters.
        pictures: of the whole job; decides whether they lie in one folder.
        changed: keys of pictures that are there and to be made anew.

    Raises `OutputError` if it cannot be written or another run is writing to it.
    """
    created = _create(directory)
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"{directory}: another run is writing there") from error
        with told_as_output_error(directory):
            for leftover in [*directory.glob(".*.tmp"), *directory.glob("*/.*.tmp")]:
                leftover.unlink()
            sink = Sink(directory, output, model, pictures, changed or KeySet())
        try:
            yield sink
        except OutputError:
            sink.close(whole=False)
            raise
        except BaseException:
            _end(sink)
            raise
        else:
            _end(sink)
    finally:
        os.close(handle)
        for path in created:  # only those that are empty go
            with contextlib.suppress(OSError):
                path.rmdir()


def _end(sink: Sink) -> None:
    try:
        sink.close(whole=True)
    except OutputError:  # no scraps of a last shard that found no place
        sink.close(whole=False)
        raise


def read_rows_per_batch(directory: Path) -> int | None:
    """What `keep_rows_per_batch` noted; None if this job has not been on Ray. Raises `OutputError`."""
    path = directory / BATCHES
    try:
        rows = json.loads(path.read_bytes())["rows_per_batch"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{path}: cannot be read ({error}); remove it to go on with batches of another size"
        ) from error
    if not isinstance(rows, int) or rows < 1:
        raise OutputError(f"{path}: rows_per_batch must be a positive whole number, got {rows!r}")
    return rows


def _create(directory: Path) -> list[Path]:
    """Make the folder and its parents; returns those that are new, innermost first."""
    missing = []
    path = directory.absolute()
    while not path.exists():
        missing.append(path)
        path = path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be created ({error.strerror})") from error
    return missing
