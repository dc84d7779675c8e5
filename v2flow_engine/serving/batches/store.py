"""Batches -> a folder each, which survives the server; and who of several servers works on them.

todo/ID            batches that are not over        owner.lock   held by the process that works on them
ID/batch.json      what is known of a batch; written in one step, after its beginning by the owner alone
ID/input.jsonl     ID/output.jsonl  ID/errors.jsonl   see `journal`
ID/cancel          somebody wants it to end
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.files import write_whole

if TYPE_CHECKING:
    from v2flow_engine.serving.file_store import FileStore, StoredFile

_ID = re.compile(r"batch_[0-9a-f]{32}")
OVER = ("completed", "failed", "expired", "cancelled")
CANCELLABLE = ("validating", "in_progress")
INPUT = "input.jsonl"


@dataclass
class Batch:
    """All that is known of one. Times are seconds since 1970.

    owner: digest of the key that it belongs to. base_url: what URLs in its answers begin with. model_digest: of the
    model that it was made for. output_seconds: how long its results are kept. ending: what it is after `finalizing`.
    times: of each status that it has had.
    """

    endpoint: str
    input_file_id: str
    completion_window: str
    expires: float
    owner: str | None
    base_url: str
    model: str
    model_digest: str
    metadata: dict[str, str] | None = None
    output_seconds: float | None = None
    id: str = field(default_factory=lambda: f"batch_{secrets.token_hex(16)}")
    created: float = field(default_factory=time.time)
    status: str = "validating"
    ending: str = "completed"
    times: dict[str, float] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None

    def become(self, status: str) -> None:
        """Change the status, and note when."""
        self.status = status
        self.times.setdefault(status, time.time())

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in OVER


class BatchStore:
    """Batches in a folder.

    Args:
        folder: made if it is missing, readable by its user only. seconds: that a batch is known after it is over.
    """

    def __init__(self, folder: Path, *, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self._todo = folder / "todo"
        self._todo.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, batch: Batch, files: FileStore, input_file: StoredFile) -> None:
        """Keep a new batch with its input. Raises `FileNotFoundError` if the input has been deleted meanwhile."""
        self._sweep()
        home = self.home(batch.id)
        home.mkdir(mode=0o700)
        try:
            files.link(input_file, home / INPUT)
            self.save(batch)
            (self._todo / batch.id).touch()
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise

    def home(self, batch_id: str) -> Path:
        """The folder of a batch."""
        return self.folder / batch_id

    def save(self, batch: Batch) -> None:
        """Write what is known of a batch; one that is over leaves the list of what is to do."""
        path = self.home(batch.id) / "batch.json"
        write_whole(path, json.dumps(dataclasses.asdict(batch)).encode())
        if batch.is_over:
            (self._todo / batch.id).unlink(missing_ok=True)

    def load(self, batch_id: str) -> Batch | None:
        """A batch as its owner wrote it; None if there is none."""
        try:
            content = (self.home(batch_id) / "batch.json").read_bytes()
        except FileNotFoundError:
            return None
        return Batch(**json.loads(content))

    def get(self, batch_id: str, owner: str | None) -> Batch | None:
        """A batch of a key; None if there is none, or it belongs to another."""
        batch = self._seen(batch_id) if _ID.fullmatch(batch_id) else None
        return batch if batch is not None and batch.owner == owner else None

    def list(self, owner: str | None) -> list[Batch]:
        """All batches of a key, the newest first."""
        found = [self._seen(home.name) for home in self._homes()]
        own = [batch for batch in found if batch is not None and batch.owner == owner]
        return sorted(own, key=lambda batch: (batch.created, batch.id), reverse=True)

    def cancel(self, batch_id: str) -> None:
        """Tell whoever works on a batch to end it."""
        (self.home(batch_id) / "cancel").touch()

    def cancel_wanted(self, batch_id: str) -> float | None:
        """Since when somebody wants it to end; None if nobody does."""
        try:
            return (self.home(batch_id) / "cancel").stat().st_mtime
        except FileNotFoundError:
            return None

    def todo(self) -> list[str]:
        """Ids of batches that are not over, the oldest first."""
        found = []
        for path in self._todo.iterdir():
            if not _ID.fullmatch(path.name):
                continue
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path.name))
        return [name for _, name in sorted(found)]

    def _homes(self) -> list[Path]:
        """Folders of batches; others, of whatever name, are the user's."""
        return [path for path in self.folder.iterdir() if _ID.fullmatch(path.name)]

    def _seen(self, batch_id: str) -> Batch | None:
        """A batch as callers see it: one that is to be cancelled is about to be, before its owner looks."""
        batch, wanted = self.load(batch_id), self.cancel_wanted(batch_id)
        if batch is not None and wanted is not None and batch.status in CANCELLABLE:
            batch.status = "cancelling"
            batch.times.setdefault("cancelling", wanted)
        return batch

    @contextlib.contextmanager
    def ownership(self) -> Iterator[bool]:
        """Try to become the one process that works on these batches. The system frees the place of one that dies."""
        with (self.folder / "owner.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _sweep(self) -> None:
        """Forget batches that have been over for long, and what a crash left half-made."""
        now = time.time()
        todo = set(self.todo())
        for home in self._homes():
            if home.name in todo:
                continue
            with contextlib.suppress(FileNotFoundError):
                if now - home.stat().st_mtime > self.seconds:
                    shutil.rmtree(home, ignore_errors=True)
