"""Answers of a batch's requests -> two JSONL files that grow: each answer is in one of them whole, once, or not yet.

What the offline path's manifest is to pictures: after a kill, what is written counts and the torn end does not.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"


class Journal:
    """Of one batch, whose folder one process at a time writes to.

    done: the custom_ids that have been answered or given up. completed, failed: how many have been answered well, and
    how many not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: set[str] = set()
        self._files = {name: (folder / name).open("ab") for name in (OUTPUT, ERRORS)}
        self.completed, self.failed = (self._read(name) for name in (OUTPUT, ERRORS))

    @property
    def size(self) -> int:
        """Bytes of both files."""
        return sum(file.tell() for file in self._files.values())

    def write(self, record: dict[str, Any], *, well: bool, sync: bool = True) -> None:
        """Keep the answer of a request, on the disk when this returns (`sync`) or when the files are closed."""
        file = self._files[OUTPUT if well else ERRORS]
        file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        if sync:
            file.flush()
            os.fsync(file.fileno())
        self.done.add(record["custom_id"])
        self.completed += well
        self.failed += not well and record["response"] is not None

    def _read(self, name: str) -> int:
        """Note what a file holds, and cut off what a kill left half-written."""
        count = whole = 0
        with (self.folder / name).open("rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                whole += len(raw)
                record = json.loads(raw)
                count += record["response"] is not None
                self.done.add(record["custom_id"])
        self._files[name].truncate(whole)
        self._files[name].seek(whole)
        return count

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            with file:
                file.flush()
                os.fsync(file.fileno())
