"""Files that callers send, and those that batches make -> a folder, under ids that nobody can guess.

    ID.json   what is known of a file        ID   its bytes

A file is there when its `.json` is: its bytes come first and go last. After a while it is gone. Processes may share
the folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from v2flow_engine.errors import V2FlowError
from v2flow_engine.files import temporary_name, whole_name, write_whole

_ID = re.compile(r"file-[0-9a-f]{32}")
MAX_NAME = 255  # characters
SWEEP_SECONDS = 10.0
ABANDONED_SECONDS = 3600.0  # bytes without a .json that are older were left by a process that died


class StorageFullError(V2FlowError):
    """There is no room for one more file."""


@dataclass(frozen=True)
class StoredFile:
    """created, expires: seconds since 1970. owner: digest of the key that it belongs to, None without keys.

    filename: as the caller said, only ever shown, never a path here.
    """

    id: str
    bytes: int
    created: float
    expires: float
    filename: str
    purpose: str
    owner: str | None


class FileStore:
    """Files in a folder.

    Args:
        folder: made if it is missing, readable by its user only. What else is in it is left alone.
        seconds: that a file is kept at most. max_bytes, max_files: of all; what is beyond is refused.
    """

    def __init__(self, folder: Path, *, seconds: float, max_bytes: int, max_files: int) -> None:
        self.folder, self.seconds, self.max_bytes, self.max_files = folder, seconds, max_bytes, max_files
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._swept = 0.0

    def put(
        self,
        source: BinaryIO,
        size: int,
        *,
        filename: str,
        purpose: str,
        owner: str | None,
        seconds: float | None = None,
    ) -> StoredFile:
        """Keep a copy of an open file of `size` bytes. Raises `StorageFullError`."""
        self._sweep()
        count, total = self._used()
        if count >= self.max_files or total + size > self.max_bytes:
            raise StorageFullError(
                f"{count} files of {total} bytes are kept; there is no room for {size} more"
            )
        path = self.folder / new_file_id()
        temporary = temporary_name(path)
        try:
            with temporary.open("wb") as target:
                shutil.copyfileobj(source, target)
            return self.adopt(temporary, path.name, filename, purpose, owner, seconds)
        finally:
            temporary.unlink(missing_ok=True)

    def adopt(
        self, path: Path, file_id: str, filename: str, purpose: str, owner: str | None, seconds: float | None
    ) -> StoredFile:
        """Make a finished file of the same file system one of these, under an id of `new_file_id`.

        May be asked again after a crash: then `path` may be gone already.
        """
        target = self.folder / file_id
        if path.exists():
            path.replace(target)
        now = time.time()
        file = StoredFile(
            id=file_id,
            bytes=target.stat().st_size,
            created=now,
            expires=now + min(seconds or self.seconds, self.seconds),
            filename=_shown(filename),
            purpose=purpose,
            owner=owner,
        )
        write_whole(self._about(file_id), json.dumps(dataclasses.asdict(file)).encode())
        return file

    def get(self, file_id: str, owner: str | None) -> StoredFile | None:
        """What is known of a file; None if there is none, no more, or it belongs to another key."""
        file = self._read(self._about(file_id)) if _ID.fullmatch(file_id) else None
        if file is None or file.owner != owner:
            return None
        if file.expires <= time.time():
            self._remove(file.id)
            return None
        return file

    def open(self, file: StoredFile) -> BinaryIO | None:
        """Its bytes, which stay readable even if it is deleted now; None if it has been."""
        try:
            return (self.folder / file.id).open("rb")
        except FileNotFoundError:
            return None

    def has_bytes(self, file_id: str) -> bool:
        """Whether a file's bytes are here, even if nothing else is known of it yet."""
        return (self.folder / file_id).exists()

    def link(self, file: StoredFile, target: Path) -> None:
        """A name of its own for a file's bytes, which lives on when the file is deleted. Raises `FileNotFoundError`."""
        source = self.folder / file.id
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links
            shutil.copyfile(source, target)

    def list(self, owner: str | None) -> list[StoredFile]:
        """All files of a key, the newest first."""
        now = time.time()
        names = [name for name, _, _ in self._entries() if name.endswith(".json")]
        found = [self._read(self.folder / name) for name in names]
        own = [file for file in found if file is not None and file.owner == owner and file.expires > now]
        return sorted(own, key=lambda file: (file.created, file.id), reverse=True)

    def delete(self, file_id: str, owner: str | None) -> bool:
        """Whether there was such a file; now there is none."""
        file = self.get(file_id, owner)
        if file is not None:
            self._remove(file.id)
        return file is not None

    def room(self) -> int:
        """Bytes that may still be kept."""
        self._sweep()
        return max(0, self.max_bytes - self._used()[1])

    def _about(self, file_id: str) -> Path:
        return self.folder / f"{file_id}.json"

    def _read(self, path: Path) -> StoredFile | None:
        try:
            return StoredFile(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None

    def _remove(self, file_id: str) -> None:
        self._about(file_id).unlink(missing_ok=True)
        (self.folder / file_id).unlink(missing_ok=True)

    def _used(self) -> tuple[int, int]:
        """Files, and bytes of all; those that are on their way count."""
        sizes = [size for name, size, _ in self._entries() if not name.endswith(".json")]
        return len(sizes), sum(sizes)

    def _entries(self) -> Iterator[tuple[str, int, float]]:
        """Names, sizes, times of change of what this store has written."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not _ID.fullmatch(whole_name(entry.name).removesuffix(".json")):
                    continue
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # another process was faster
                    continue
                yield entry.name, stat.st_size, stat.st_mtime

    def _sweep(self) -> None:
        """Forget what is over; now and then, not with each file."""
        now = time.time()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        entries = list(self._entries())
        known = {name.removesuffix(".json") for name, _, _ in entries if name.endswith(".json")}
        for name, _, changed in entries:
            if name.endswith(".json"):
                file = self._read(self.folder / name)
                if file is not None and file.expires <= now:
                    self._remove(file.id)
            elif name not in known and now - changed > ABANDONED_SECONDS:
                (self.folder / name).unlink(missing_ok=True)


def new_file_id() -> str:
    """128 random bits."""
    return f"file-{secrets.token_hex(16)}"


def _shown(filename: str) -> str:
    """A caller's file name as it may be shown: printable, not endless."""
    return "".join(each if each.isprintable() else "_" for each in filename)[-MAX_NAME:] or "file"
