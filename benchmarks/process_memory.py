"""A process and all that it started -> bytes of memory by role, from outside. Knows Ray's names for its processes."""

from __future__ import annotations

import contextlib
from collections import defaultdict

import psutil

DRIVER = "driver"
# what a command line holds -> the role
ROLES = {
    "TokenActor": "token actors",
    "DecoderActor": "decoder actors",
    "ray::Feed": "feed",
    "read_feed": "feed",
    "gcs_server": "Ray's gcs",
    "raylet/raylet": "Ray's raylet",
    "ray": "other of Ray",
}


def memory_by_role(driver: psutil.Process) -> dict[str, dict[str, int]]:
    """{"resident": {role: bytes}, "own": {role: bytes}}; own leaves out pages that others have too, as Ray's store."""
    found: dict[str, dict[str, int]] = {"resident": defaultdict(int), "own": defaultdict(int)}
    for process in (driver, *driver.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
            memory = process.memory_full_info()
            role = DRIVER if process == driver else _role(" ".join(process.cmdline()))
            found["resident"][role] += memory.rss
            found["own"][role] += memory.uss
    return {kind: dict(values) for kind, values in found.items()}


def _role(command: str) -> str:
    return next((role for word, role in ROLES.items() if word in command), "other")
