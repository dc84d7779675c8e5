"""A folder of pictures as `v2flow generate` leaves it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from v2flow_engine.images import read_metadata


def manifest(out: Path) -> list[dict[str, Any]]:
    """The lines of manifest.jsonl."""
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def check_folder(out: Path, count: int) -> list[dict[str, Any]]:
    """Every picture is there, is the one that the manifest means, and says how it was made."""
    lines = manifest(out)
    assert len(lines) == count
    for line in lines:
        data = (out / line["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == line["sha256"]
        metadata = read_metadata(data)
        assert metadata is not None
        assert (metadata.prompt, metadata.seed) == (line["prompt"], line["seed"])
        assert metadata.parameters == line["parameters"]
    assert "<!doctype html>" in (out / "index.html").read_text(encoding="utf-8")
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []
    return lines
