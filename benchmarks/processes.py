"""The processes that a process has started, from outside."""

from __future__ import annotations

import contextlib

import psutil


def started_by(pid: int, word: str) -> list[psutil.Process]:
    """Living ones, at any depth, whose command line holds a word; none of a process that is gone itself."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it may have ended; a zombie has no command line
                if word in " ".join(process.cmdline()):
                    found.append(process)
    return found
