"""manifest.jsonl: one line per finished picture. Read again, it says what a repeated run may skip.

Read as a stream: it may have millions of lines. Knows the folder's layout, not how pictures are made.
"""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v2flow_engine.errors import OutputError
from v2flow_engine.files import replaced_durably

MANIFEST = "manifest.jsonl"
SORTED_UP_TO = 32 * 2**20  # bytes; a longer manifest stays in the order of completion
_FORMATS = {".png": "png", ".webp": "webp", ".jpg": "jpeg"}


@dataclass(frozen=True)
class ManifestEntry:
    """A finished picture.

    id: its place in the job, or the id of its row. file: of the picture or of its shard, in the folder. bytes: the
    picture's size. seconds: its share of the time that its batches took in both stages, which `timings` gives apart.
    index: its place in the job. format: of the picture, after that of its shard: "png", "webdataset/png". offset: of
    its first byte in a tar. row: in a Parquet file. extra: the input's further columns.
    """

    id: int | str
    prompt: str
    seed: int
    parameters: dict[str, Any]
    file: str
    sha256: str
    bytes: int
    seconds: float
    index: int | None = None
    format: str | None = None
    offset: int | None = None
    row: int | None = None
    timings: dict[str, float] | None = None
    extra: dict[str, Any] | None = None

    @property
    def image_format(self) -> str:
        """As in `format`, which older manifests do not have."""
        return self.format or _FORMATS.get(Path(self.file).suffix, Path(self.file).suffix)

    @property
    def place(self) -> int:
        """The picture's place in the job."""
        return self.index if self.index is not None else int(self.id)

    @property
    def in_shard(self) -> bool:
        """Whether the picture shares its file with others."""
        return self.offset is not None or self.row is not None

    def is_whole(self, directory: Path) -> bool:
        """Whether a picture that has its own file is there, at its full length."""
        with contextlib.suppress(OSError):
            return os.stat(directory / self.file).st_size == self.bytes
        return False

    def to_line(self) -> str:
        """A JSON line, newline included."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return json.dumps(values, ensure_ascii=False) + "\n"


def iter_manifest(directory: Path) -> Iterator[ManifestEntry]:
    """The entries in their order; none if there is no manifest. A last line that a kill cut short is left out.

    Raises `OutputError` for lines that are no manifest's.
    """
    path = directory / MANIFEST
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                entry = ManifestEntry(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise OutputError(f"{path}, line {number}: not a line of a manifest ({error})") from error
            yield entry


def rewrite_manifest(directory: Path, keep: Callable[[ManifestEntry], bool]) -> None:
    """Replace the manifest in one step by those of its lines that are to be kept."""
    path = directory / MANIFEST
    with replaced_durably(path) as file:
        for entry in iter_manifest(directory):
            if keep(entry):
                file.write(entry.to_line())


def sort_manifest(directory: Path) -> None:
    """Bring the lines into the order of the pictures' places, unless there are very many. Holds one line at a time."""
    path = directory / MANIFEST
    if path.stat().st_size > SORTED_UP_TO:
        return
    places = array("q", (entry.place for entry in iter_manifest(directory)))
    with path.open("rb") as lines, replaced_durably(path, "wb") as file:
        starts = array("q", [0])
        for line in lines:
            starts.append(starts[-1] + len(line))
        for number in sorted(range(len(places)), key=places.__getitem__):
            lines.seek(starts[number])
            file.write(lines.readline())
