"""The user's cache folder, and things in it that are made once, whatever processes of the machine ask for them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

CACHE_VARIABLE = "V2FLOW_CACHE"


def cache_dir() -> Path:
    """$V2FLOW_CACHE, or v2flow in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return (
        Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "v2flow"
    )


def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """The folder `target`; where it is missing, `make` fills a new one, which then takes its name.

    Other processes wait meanwhile. What `make` raises is raised, with nothing left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(target.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        building = target.with_name(target.name + ".building")
        shutil.rmtree(building, ignore_errors=True)
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, building, ignore_errors=True)
            building.mkdir()
            make(building)
            building.rename(target)
    return target
