"""A model folder's weight files -> are they whole, and which are they. Reads headers and a few bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from v2flow_engine.checkpoint import PARTS
from v2flow_engine.errors import ModelFolderError
from v2flow_engine.generation.weight_samples import weight_samples

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import TokenizerFolder


def check_weight_files(folder: TokenizerFolder) -> None:
    """Raise `ModelFolderError` for a missing or truncated weight file, before an engine stumbles over it."""
    for part in (part for part in PARTS if (folder.path / part).is_dir()):
        if not list((folder.path / part).glob("*.safetensors")):
            raise ModelFolderError(f"{folder.path / part}: holds no safetensors file")
    for path in _weight_files(folder):
        try:
            with safe_open(str(path), framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelFolderError(f"{path}: not a readable safetensors file ({error})") from error


def model_digest(folder: TokenizerFolder) -> str:
    """16 hex digits that change when a config or weights do: a retrained model is another model.

    Of weight files it takes the name, the size and `weight_samples`: what training changes here and there between the
    samples of a large tensor, and nowhere else, is not seen.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.path.rglob("*.json")):
        digest.update(f"{path.relative_to(folder.path)}\0".encode())
        digest.update(path.read_bytes())
    for path in _weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder.path)}\0{size}\0".encode())
        for sample in weight_samples(path):
            digest.update(sample)
    return digest.hexdigest()[:16]


def _weight_files(folder: TokenizerFolder) -> list[Path]:
    return sorted(path for part in PARTS for path in (folder.path / part).glob("*.safetensors"))
