"""What evaluation needs from outside -> a folder of the user's cache where it is kept for the next run."""

from __future__ import annotations

import os
from pathlib import Path

from v2flow_engine.errors import OutputError
from v2flow_engine.user_cache import cache_dir


def cache_folder(name: str) -> Path:
    """The folder NAME of the user's cache, made where it is missing. Raises `OutputError` if it cannot be made."""
    return make_folder(cache_dir() / name)


def make_folder(folder: Path) -> Path:
    """The folder, made where it is missing and found writable; raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {folder}: Permission denied")
    return folder
