"""manifest.jsonl: one line per finished picture. Read again, it says what a repeated run may skip.

Knows the folder's layout, not how pictures are made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from v2flow_engine.errors import OutputError
from v2flow_engine.generation.image_request import ImageRequest

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class ManifestEntry:
    """A finished picture.

    id: its place in the job. file: its name in the folder. bytes: the file's size. seconds: its share of the
    time that its batches took in both stages.
    """

    id: int
    prompt: str
    seed: int
    parameters: dict[str, Any]
    file: str
    sha256: str
    bytes: int
    seconds: float

    def is_whole(self, directory: Path) -> bool:
        """Whether the picture is there, at its full length."""
        path = directory / self.file
        return path.is_file() and path.stat().st_size == self.bytes

    def to_line(self) -> str:
        """A JSON line, newline included."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def read_manifest(directory: Path) -> dict[int, ManifestEntry]:
    """Entries by id; none if there is no manifest. A last line that a kill cut short is ignored.

    Raises `OutputError` for lines that are no manifest's.
    """
    path = directory / MANIFEST
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from error
    entries: dict[int, ManifestEntry] = {}
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is empty or cut short
        try:
            entry = ManifestEntry(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise OutputError(f"{path}, line {number}: not a line of a manifest ({error})") from error
        entries[entry.id] = entry
    return entries


def write_manifest(directory: Path, entries: dict[int, ManifestEntry]) -> None:
    """Replace the manifest in one step, its lines in order of id."""
    temporary = directory / f".{MANIFEST}.tmp"
    temporary.write_text("".join(entries[i].to_line() for i in sorted(entries)), encoding="utf-8")
    temporary.replace(directory / MANIFEST)


def requests_to_do(
    directory: Path,
    entries: dict[int, ManifestEntry],
    requests: Sequence[ImageRequest],
    parameters: dict[str, Any],
    suffix: str,
) -> list[ImageRequest]:
    """The requests without a finished picture.

    Raises `OutputError`, naming the difference, if the folder holds a picture that was made from something
    else.
    """
    pending = []
    for request in requests:
        entry = entries.get(request.index)
        if entry is None:
            pending.append(request)
            continue
        difference = _difference(entry, request, parameters, suffix)
        if difference:
            raise OutputError(
                f"{directory} holds picture {entry.id} of another run: {difference}; "
                "give another --out, or the same options to resume"
            )
        if not entry.is_whole(directory):
            pending.append(request)
    return pending


def _difference(entry: ManifestEntry, request: ImageRequest, parameters: dict[str, Any], suffix: str) -> str:
    was = {"prompt": entry.prompt, "seed": entry.seed, **entry.parameters, "suffix": Path(entry.file).suffix}
    now = {"prompt": request.prompt, "seed": request.seed, **parameters, "suffix": suffix}
    if "guidance_schedule" in now:  # older manifests do not name it: there was only one
        was.setdefault("guidance_schedule", "constant")
    if "solver" in now:  # nor the solver, which was the model's own
        was.setdefault("solver", now["solver"])
    for name in dict.fromkeys([*now, *was]):
        if was.get(name) != now.get(name):
            return f"{name} was {was.get(name)!r}, now {now.get(name)!r}"
    return ""
