"""A wheel of a Python package as a file, fetched by pip; nothing of it is installed or run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from v2flow_engine.errors import DataError


def download_wheel(
    wish: str, into: Path, *, seconds: float, otherwise: str, platform: Sequence[str] = ()
) -> Path:
    """The wheel of a requirement such as "name==1.0", in the folder `into`, which holds no other.

    Args:
        seconds: that pip may take.
        otherwise: what the user may do instead, the end of the error's text.
        platform: pip's options for another platform than this one.

    Raises `DataError`.
    """
    command = [sys.executable, "-m", "pip", "download", wish, "--no-deps", "--only-binary=:all:", *platform]
    command += ["--dest", str(into), "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"pip download {wish} did not end within {seconds:g} s") from error
    wheels = list(into.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"pip download {wish} failed with exit code {done.returncode}: {last}; {otherwise}")
    return wheels[0]
