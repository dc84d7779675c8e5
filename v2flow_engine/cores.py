"""How many cores this process may compute on."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Those that the system lets it run on: fewer than the machine has under taskset or in a cpuset."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
