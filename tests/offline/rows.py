"""Rows of a job's input, as the tests write them."""

from __future__ import annotations

import json
from pathlib import Path

TOO_LONG = "cat " * 500


def write_rows(path: Path, *rows: dict[str, object]) -> None:
    """As JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
