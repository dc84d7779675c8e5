"""Image bytes -> files in a folder, with a manifest of what is finished and a list of what failed.

A picture appears under its name only when it is whole, and in the manifest only when it is there. Knows
nothing of engines or of Ray.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from v2flow_engine.errors import OutputError
from v2flow_engine.files import check_folder, slug, told_as_output_error, visible_names, write_whole
from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.offline.manifest import MANIFEST, ManifestEntry, read_manifest, write_manifest
from v2flow_engine.offline.stages import FinishedImage

ERRORS = "errors.jsonl"
SUFFIX_OF = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}


def check_out(directory: Path) -> None:
    """Raise `OutputError` if the folder cannot be written to or is somebody else's. Changes nothing.

    A folder that exists must be empty or hold a manifest; hidden files do not count.
    """
    check_folder(directory)
    foreign = visible_names(directory)
    if foreign and MANIFEST not in foreign and ERRORS not in foreign:
        raise OutputError(
            f"{directory}: holds other files ({foreign[0]}); give an empty or a new folder as --out"
        )


class Sink:
    """The output folder of one job, held by one process at a time. Use `open_sink`."""

    def __init__(self, directory: Path, image_format: str, parameters: dict[str, Any]) -> None:
        self.directory = directory
        self.suffix = SUFFIX_OF[image_format]
        self.parameters = parameters
        self.entries = {i: e for i, e in read_manifest(directory).items() if e.is_whole(directory)}
        self.errors: dict[int, dict[str, Any]] = {}
        if (directory / MANIFEST).exists():
            write_manifest(directory, self.entries)  # without lines cut short or of lost pictures
        self._manifest = (directory / MANIFEST).open("a", encoding="utf-8")

    def write(self, request: ImageRequest, finished: FinishedImage) -> None:
        """Keep a picture, or note why there is none."""
        if finished.error:
            self.fail(request, finished.error)
            return
        name = f"{request.index:06d}-{slug(request.prompt)}{self.suffix}"
        entry = ManifestEntry(
            id=request.index,
            prompt=request.prompt,
            seed=request.seed,
            parameters=self.parameters,
            file=name,
            sha256=hashlib.sha256(finished.image).hexdigest(),
            bytes=len(finished.image),
            seconds=round(finished.seconds, 4),
        )
        with told_as_output_error(self.directory):
            write_whole(self.directory / name, finished.image)
            self._manifest.write(entry.to_line())
            self._manifest.flush()
        self.entries[entry.id] = entry
        self.errors.pop(entry.id, None)

    def fail(self, request: ImageRequest, error: str) -> None:
        """Note a picture that could not be made."""
        self.errors[request.index] = {
            "id": request.index,
            "prompt": request.prompt,
            "seed": request.seed,
            "error": error,
        }

    def close(self) -> None:
        """Order the manifest, and write or remove errors.jsonl."""
        with told_as_output_error(self.directory):
            self._manifest.close()
            write_manifest(self.directory, self.entries)
            lines = [json.dumps(self.errors[i], ensure_ascii=False) + "\n" for i in sorted(self.errors)]
            if lines:
                write_whole(self.directory / ERRORS, "".join(lines).encode())
            else:
                (self.directory / ERRORS).unlink(missing_ok=True)
            if not lines and not self.entries:
                (self.directory / MANIFEST).unlink()


@contextlib.contextmanager
def open_sink(directory: Path, image_format: str, parameters: dict[str, Any]) -> Iterator[Sink]:
    """Create the folder if needed, and hold it until the end; on an error, leave no empty folder behind.

    Raises `OutputError` if it cannot be written or another run is writing to it.
    """
    created = _create(directory)
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"{directory}: another run is writing there") from error
        for leftover in directory.glob(".*.tmp"):
            leftover.unlink()
        with told_as_output_error(directory):
            sink = Sink(directory, image_format, parameters)
        try:
            yield sink
        finally:
            sink.close()
    finally:
        os.close(handle)
        for path in created:  # only those that are empty go
            with contextlib.suppress(OSError):
                path.rmdir()


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
