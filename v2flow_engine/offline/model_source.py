"""--model as a name, a folder or an fsspec URL -> a checked model folder on this machine.

A remote folder is copied once into a cache, under a hash of what the store says of its files (names, sizes, checksums
or times), so that a changed model is fetched anew and several processes of a machine share one copy.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import ModelFolderError
from v2flow_engine.user_cache import cache_dir, made_once

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder


def is_remote(model: str) -> bool:
    """Whether the model is named by a URL."""
    return "://" in model


def open_model_anywhere(model: str) -> ModelFolder:
    """As `checkpoint.open_model`, for URLs too. Raises `ModelFolderError`."""
    from v2flow_engine.checkpoint import open_model

    return open_model(fetch_model(model) if is_remote(model) else model)


def open_same_model(model: str, digest: str | None) -> ModelFolder:
    """As `open_model_anywhere`, on another machine: the model must be the one whose `model_digest` the driver read.

    Raises `ModelFolderError` that names this machine.
    """
    from v2flow_engine.generation.model_files import model_digest

    try:
        folder = open_model_anywhere(model)
    except ModelFolderError as error:
        raise ModelFolderError(f"on {platform.node()}: {error}") from error
    found = model_digest(folder)
    if digest not in (None, found):
        raise ModelFolderError(f"on {platform.node()}: {model} has digest {found}, the driver's has {digest}")
    return folder


def fetch_model(url: str) -> Path:
    """The local copy of a remote model folder, made if it is not there. Raises `ModelFolderError`."""
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(url)
        files = {
            name: info if _version(info) else info | filesystem.info(name)  # HTTP's lists tell no version
            for name, info in sorted(filesystem.find(root, detail=True).items())
            if info.get("type") != "directory"
        }
    except Exception as error:  # each store raises its own
        raise ModelFolderError(f"{url}: cannot be read ({' '.join(str(error).split())})") from error
    if not files:
        raise ModelFolderError(f"{url}: no such folder, or an empty one")
    target = cache_dir() / "models" / _hash(filesystem, root, files)
    try:
        return made_once(target, lambda building: _copy(filesystem, root, files, building))
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelFolderError(f"{url}: cannot be copied to {target} ({reason})") from error


def _hash(filesystem: Any, root: str, files: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, info in files.items():
        digest.update(f"{_below(root, name)}\0{info.get('size')}\0{_version(info)}\0".encode())
    digest.update(str(filesystem.protocol).encode())
    return digest.hexdigest()[:32]


def _version(info: dict[str, Any]) -> Any:
    """What changes when a file does, as its store tells it; "" where it does not."""
    names = ("ETag", "etag", "md5Hash", "checksum", "mtime", "created", "Last-Modified")
    return next((info[name] for name in names if info.get(name)), "")


def _copy(filesystem: Any, root: str, files: dict[str, Any], folder: Path) -> None:
    for name, info in files.items():
        local = folder / _below(root, name)
        local.parent.mkdir(parents=True, exist_ok=True)
        filesystem.get_file(name, str(local))
        if info.get("size") not in (None, local.stat().st_size):
            raise OSError(f"{name} has {info['size']} bytes, {local.stat().st_size} came")


def _below(root: str, name: str) -> str:
    return name.removeprefix(root.rstrip("/")).lstrip("/")
