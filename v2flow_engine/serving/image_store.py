"""Pictures for `response_format: url` -> files under names that nobody can guess, gone after a while.

A folder, so that several ingress replicas of one machine (or of one shared file system) serve each other's URLs.
"""

from __future__ import annotations

import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from v2flow_engine.files import whole_name, write_whole

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
_NAME = re.compile(r"[A-Za-z0-9_-]{43}\.(png|webp|jpeg)")
SWEEP_SECONDS = 10.0


@dataclass(frozen=True)
class StoredImage:
    """A picture that is still there."""

    data: bytes
    media_type: str
    seconds_left: float


class ImageStore:
    """Pictures in a folder. A file's modification time says when it came.

    Args:
        folder: made if it is missing, readable by its user only. What else is in it is left alone.
        seconds: that a picture is kept. max_bytes: of all; the oldest go first.
    """

    def __init__(self, folder: Path, *, seconds: float, max_bytes: int) -> None:
        self.folder, self.seconds, self.max_bytes = folder, seconds, max_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._swept = 0.0

    def put(self, data: bytes, image_format: str) -> str:
        """Keep a picture; returns its name."""
        self._sweep()
        name = f"{secrets.token_urlsafe(32)}.{image_format}"
        write_whole(self.folder / name, data)
        return name

    def get(self, name: str) -> StoredImage | None:
        """The picture of a name; None if there is none, no more, or the name is none that `put` gives."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        path = self.folder / name
        try:
            left = path.stat().st_mtime + self.seconds - time.time()
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if left <= 0:
            path.unlink(missing_ok=True)
            return None
        return StoredImage(data, MEDIA_TYPES[match[1]], left)

    def _sweep(self) -> None:
        """Forget what is over, and the oldest if there is too much; now and then, not with each picture."""
        now = time.time()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        found = []
        for path in self.folder.iterdir():
            if not _NAME.fullmatch(whole_name(path.name)):  # the user's own
                continue
            with suppress(FileNotFoundError):  # another replica was faster
                found.append((path.stat(), path))
        total = 0
        for stat, path in sorted(found, key=lambda each: -each[0].st_mtime):
            total += stat.st_size
            if total > self.max_bytes or now - stat.st_mtime > self.seconds:
                path.unlink(missing_ok=True)
