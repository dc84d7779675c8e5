"""A process and all that it started -> bytes of memory by role, from outside. Knows Ray's names for its processes."""

from __future__ import annotations

import contextlib
from collections import defaultdict

import psutil

DRIVER = "driver"
OTHER_OF_RAY = "other of Ray"
# what a command line holds -> the role
ROLES = {
    "TokenActor": "token actors",
    "DecoderActor": "decoder actors",
    "ray::Feed": "feed",
    "read_feed": "feed",
    "gcs_server": "Ray's gcs",
    "raylet/raylet": "Ray's raylet",
    "ray": OTHER_OF_RAY,
}


class ProcessMemory:
    """The memory of `driver` and of what it has started, however often it is asked for."""

    def __init__(self, driver: psutil.Process) -> None:
        self.driver = driver
        self._roles: dict[psutil.Process, str] = {driver: DRIVER}

    def by_role(self) -> dict[str, dict[str, int]]:
        """{"resident": {role: bytes}, "own": {role: bytes}}; own leaves out pages others have too, as Ray's store."""
        found: dict[str, dict[str, int]] = {"resident": defaultdict(int), "own": defaultdict(int)}
        for process in (self.driver, *self.driver.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                memory = process.memory_full_info()
                role = self._role(process)
                found["resident"][role] += memory.rss
                found["own"][role] += memory.uss
        return {kind: dict(values) for kind, values in found.items()}

    def _role(self, process: psutil.Process) -> str:
        """The first that it had: a worker of Ray that has finished its task calls itself idle, and is no new one."""
        if process not in self._roles:
            command = " ".join(process.cmdline())
            role = next((role for word, role in ROLES.items() if word in command), "other")
            if role in (OTHER_OF_RAY, "other"):  # it may not have begun its task
                return role
            self._roles[process] = role
        return self._roles[process]
