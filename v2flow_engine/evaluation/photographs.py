"""Six free photographs, or a folder of one's own -> square pictures of one size.

The photographs lie inside the wheel of scikit-image, which the ordinary package client downloads; nothing of
it is installed or run, and each picture is known by its checksum. Does not know what they are used for.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from v2flow_engine.errors import DataError, OutputError
from v2flow_engine.evaluation.cache import cache_folder
from v2flow_engine.fitting import fit_picture
from v2flow_engine.images import SUFFIXES
from v2flow_engine.reading import read_picture
from v2flow_engine.wheels import download_wheel

WHEEL = "scikit-image==0.26.0"
FETCH_TIMEOUT_SECONDS = 600

# file in skimage/data -> sha256. All are in the public domain, CC0, or free to use.
PHOTOGRAPHS: dict[str, str] = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",  # NASA
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",  # Stefan van der Walt
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",  # Rachel Michetti
    "hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",  # NASA
    "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",  # Haggstrom Mikael
    "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",  # SpaceX
}


@dataclass(frozen=True)
class Photograph:
    """`pixels`: (size, size, 3) uint8, the middle square of the photograph."""

    name: str
    pixels: np.ndarray


def load_photographs(size: int, folder: Path | None = None) -> list[Photograph]:
    """The six photographs, or all PNG, WebP and JPEG files of a folder, sorted by name.

    Raises `DataError` if there are none, or if one cannot be read or fetched.
    """
    if folder is None:
        paths: Iterable[Path] = fetch_photographs(cache_folder("photographs"))
    elif folder.is_dir():
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    else:
        raise DataError(f"the folder of photographs {folder} does not exist")
    photographs = [Photograph(path.stem, middle_square(path, size)) for path in paths]
    if not photographs:
        raise DataError(f"{folder} holds no {', '.join(SUFFIXES)} files")
    return photographs


def middle_square(path: Path, size: int) -> np.ndarray:
    """An image file -> its largest middle square, resized to (size, size, 3) uint8; raises `DataError`."""
    return np.asarray(fit_picture(read_picture(path), f"{size}x{size}"))


def fetch_photographs(folder: Path) -> list[Path]:
    """Make sure that the folder holds the six files, from the wheel if one is missing; returns them."""
    if not all(_is_photograph(folder / name, name) for name in PHOTOGRAPHS):
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder) as incoming:
            unpack_photographs(_download_wheel(Path(incoming)), folder)
    return [folder / name for name in sorted(PHOTOGRAPHS)]


def unpack_photographs(wheel: Path, folder: Path) -> None:
    """Copy the six files out of the wheel; raises `DataError` if one is missing or not the pinned one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            contents = {name: archive.read(f"skimage/data/{name}") for name in PHOTOGRAPHS}
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise DataError(f"{wheel.name} does not hold the photographs: {error}") from error
    for name, content in contents.items():
        came = hashlib.sha256(content).hexdigest()
        if came != PHOTOGRAPHS[name]:
            raise DataError(
                f"{name} in {wheel.name} is not the pinned one: sha256 {came}, expected {PHOTOGRAPHS[name]}"
            )
        try:
            (folder / name).write_bytes(content)
        except OSError as error:
            raise OutputError(f"cannot write {folder / name}: {error.strerror}") from error


def _is_photograph(path: Path, name: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == PHOTOGRAPHS[name]


def _download_wheel(into: Path) -> Path:
    # One platform's wheel wherever this runs: it is read, never installed.
    platform = ["--python-version=3.12", "--platform=manylinux_2_28_x86_64"]
    otherwise = "--photos DIR takes photographs of your own"
    return download_wheel(WHEEL, into, seconds=FETCH_TIMEOUT_SECONDS, otherwise=otherwise, platform=platform)
