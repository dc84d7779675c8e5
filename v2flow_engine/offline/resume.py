"""What a folder holds already + what the job wants -> what is to do, and whether it is the same job.

16 bytes in memory for each finished picture (see `identity`). Reads the folder; changes it only in `repair` and
`discard`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from v2flow_engine.differences import differences
from v2flow_engine.errors import OutputError
from v2flow_engine.files import replaced_durably, sync_folder
from v2flow_engine.offline.identity import KeyMap, KeySet, fingerprint_of, key_of, with_defaults
from v2flow_engine.offline.manifest import MANIFEST, ManifestEntry, iter_manifest, rewrite_manifest
from v2flow_engine.offline.planning import BadRow, Picture
from v2flow_engine.offline.shards import SHARD_KINDS, SHARDS, read_shards, shard_line


@dataclass(frozen=True)
class Finished:
    """The pictures that a folder holds whole. broken: whether the manifest names others, too."""

    pictures: KeyMap
    broken: bool

    def __len__(self) -> int:
        return len(self.pictures)

    def holds(self, picture: Picture) -> bool:
        """Whether this very picture is there."""
        return self.pictures.get(picture.key) == picture.fingerprint

    def holds_another(self, picture: Picture) -> bool:
        """Whether a picture of the same identity is there that was made from something else."""
        return self.pictures.get(picture.key) not in (None, picture.fingerprint)


def read_finished(directory: Path) -> Finished:
    """Go through the manifest once. Raises `OutputError` if it is none."""
    shards = read_shards(directory)
    keys, fingerprints = array("Q"), array("Q")
    broken = False
    for entry in iter_manifest(directory):
        if not _is_whole(entry, directory, shards):
            broken = True
            continue
        keys.append(key_of(entry.id))
        fingerprints.append(_fingerprint(entry))
    pictures = KeyMap(np.array(keys, dtype=np.uint64), np.array(fingerprints, dtype=np.uint64))
    return Finished(pictures, broken or len(pictures) < len(keys))


def repair(directory: Path) -> None:
    """Bring manifest and shards to what counts: no lines of lost pictures, no shard that a kill left half-noted.

    Raises `OutputError` if it is the list of shards that was lost, and not a shard.
    """
    shards = read_shards(directory)
    _check_list(directory)
    _remove_shards(directory, keep=shards)
    written: set[int] = set()

    def keep(entry: ManifestEntry) -> bool:
        key = key_of(entry.id)
        if key in written or not _is_whole(entry, directory, shards):
            return False
        written.add(key)
        return True

    if (directory / MANIFEST).exists():
        rewrite_manifest(directory, keep)


def needs_repair(directory: Path, finished: Finished) -> bool:
    """Whether `repair` would change something."""
    manifest = directory / MANIFEST
    cut = manifest.exists() and not _ends_whole(manifest)
    listed = directory / SHARDS
    stray = _shard_files(directory) - set(read_shards(directory))
    return finished.broken or cut or bool(stray) or (listed.exists() and not _ends_whole(listed))


def discard(directory: Path, changed: KeySet) -> None:
    """Remove pictures that are to be made anew. A shard that holds one of them goes as a whole."""
    shards = read_shards(directory)
    gone = {e.file for e in iter_manifest(directory) if e.in_shard and key_of(e.id) in changed}

    def keep(entry: ManifestEntry) -> bool:
        if entry.in_shard:
            return entry.file not in gone
        if key_of(entry.id) not in changed:
            return True
        (directory / entry.file).unlink(missing_ok=True)
        return False

    _remove_shards(directory, keep={name: r for name, r in shards.items() if name not in gone})
    rewrite_manifest(directory, keep)


@dataclass
class Survey:
    """A job's input, read once before anything is created.

    pictures: how many it stands for, bad rows' included. todo: of them not finished. changed: finished ones that
    would now come out otherwise. bad: rows that can't be planned, bad_pictures: what they stand for, and
    last_bad: the number of the last one.
    """

    pictures: int = 0
    rows: int = 0
    todo: int = 0
    bad: int = 0
    bad_pictures: int = 0
    last_bad: int = 0
    first_bad: BadRow | None = None
    first_good: Picture | None = None
    first_changed: Picture | None = None
    changed: KeySet = field(default_factory=KeySet)
    guided: bool = False

    @classmethod
    def of(cls, planned: Iterable[Picture | BadRow], finished: Finished, usable: Any) -> Survey:
        """Go through all rows. usable(picture): a `BadRow` or None; asked until the first usable prompt."""
        survey = cls()
        last_row = 0
        for each in planned:
            if each.row.number != last_row:
                survey.rows, last_row = survey.rows + 1, each.row.number
            if isinstance(each, BadRow):
                survey._note_bad(each)
                survey.pictures += each.count
                survey.bad_pictures += each.count
                continue
            survey._note(each, finished)
            if survey.first_good is None:
                bad = usable(each)
                if bad is None:
                    survey.first_good = each
                else:
                    survey._note_bad(bad)
        return survey

    def _note(self, picture: Picture, finished: Finished) -> None:
        self.pictures += 1
        self.guided |= picture.request.parameters.guidance_scale != 1.0
        if finished.holds_another(picture):
            self.changed.add(picture.key)
            self.first_changed = self.first_changed or picture
        elif finished.holds(picture):
            return
        self.todo += 1

    def _note_bad(self, row: BadRow) -> None:
        if row.row.number != self.last_bad:  # each picture of a row may be told
            self.bad, self.last_bad = self.bad + 1, row.row.number
        self.first_bad = self.first_bad or row


def refuse_changes(directory: Path, survey: Survey, parameters: dict[str, Any], image_format: str) -> None:
    """Raise `OutputError` with the difference if the folder holds pictures of another job.

    parameters, image_format: of `survey.first_changed`, as they would be now.
    """
    picture = survey.first_changed
    if picture is None:
        return
    entry = next(e for e in iter_manifest(directory) if key_of(e.id) == picture.key)
    request = picture.request
    was = {"prompt": entry.prompt, "seed": entry.seed, **with_defaults(entry.parameters)}
    now = {"prompt": request.prompt, "seed": request.seed, **with_defaults(parameters)}
    was["format"], now["format"] = entry.image_format, image_format
    difference = ", ".join(differences(was, now))
    count = len(survey.changed)
    others = f" (and {count - 1} more)" if count > 1 else ""
    raise OutputError(
        f"{directory} holds picture {entry.id} of another run{others}: {difference}; give another --out, the same "
        "options to resume, or --force-new to make such pictures anew"
    )


def _fingerprint(entry: ManifestEntry) -> int:
    return fingerprint_of(entry.prompt, entry.seed, entry.parameters, entry.image_format)


def _is_whole(entry: ManifestEntry, directory: Path, shards: dict[str, Any]) -> bool:
    return entry.file in shards if entry.in_shard else entry.is_whole(directory)


def _ends_whole(path: Path) -> bool:
    """Whether a file ends in a newline, or is empty."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            return True
        file.seek(size - 1)
        return file.read(1) == b"\n"


def _shard_files(directory: Path) -> set[str]:
    return {path.name for _, suffix in SHARD_KINDS.values() for path in directory.glob(f"shard-*{suffix}")}


def _check_list(directory: Path) -> None:
    """A kill leaves at most one shard that the manifest has and the list has not; without a list, more are no scraps.

    Raises `OutputError`.
    """
    if (directory / SHARDS).exists():
        return
    files = _shard_files(directory)
    named = {entry.file for entry in iter_manifest(directory) if entry.in_shard} & files
    if len(named) > 1:
        raise OutputError(
            f"{directory}: {SHARDS} is missing, and {MANIFEST} has pictures of {len(named)} shards that are there; "
            "put it back, or remove these shards to have their pictures made again"
        )


def _remove_shards(directory: Path, keep: dict[str, Any]) -> None:
    """Remove all shards but some, and note those that stay."""
    listed = directory / SHARDS
    if listed.exists():
        with replaced_durably(listed) as file:
            file.writelines(map(shard_line, keep.values()))
        sync_folder(directory)  # before a shard goes that the old list has
    for name in _shard_files(directory) - set(keep):
        (directory / name).unlink()
