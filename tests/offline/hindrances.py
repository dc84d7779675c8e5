"""What keeps a process from writing, by the system itself: a disk that seems full, a folder without permission."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


def limit_files(size: int) -> None:
    """Let every write beyond `size` bytes of a file fail from now on, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def limits_end() -> Iterator[None]:
    """`limit_files` holds until the end of the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def small_files_only(size: int) -> Iterator[None]:
    """`limit_files` in the block."""
    with limits_end():
        limit_files(size)
        yield


def forbid_writing(directory: Path) -> None:
    """Nobody may write to the folder any more; root, who may everywhere, becomes somebody else. See `rights_end`."""
    directory.chmod(0o555)
    if os.geteuid() == 0:
        os.setresuid(NOBODY, NOBODY, 0)


@contextmanager
def rights_end(directory: Path) -> Iterator[None]:
    """`forbid_writing` holds until the end of the block."""
    uids, mode = os.getresuid(), directory.stat().st_mode
    try:
        yield
    finally:
        os.setresuid(*uids)
        directory.chmod(mode)
