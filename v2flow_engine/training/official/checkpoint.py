"""Files of the reference training code -> tensors: checkpoints, and the LLM's embedding that it was given.

A `.pth` is a pickle and may come from anywhere: only tensors and plain values are loaded from it.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from v2flow_engine.checkpoint import load_weights
from v2flow_engine.errors import DataError

SETS = {"ema": "model_ema", "model": "model"}


@dataclass(frozen=True)
class OfficialCheckpoint:
    """weights: under the reference's keys. which: whose they are, in words. args: the options of its training."""

    weights: dict[str, torch.Tensor]
    which: str
    args: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path, weights: str | None = None) -> OfficialCheckpoint:
    """Read a checkpoint.

    Args:
        path: a `.pth` with `model` and `model_ema`, or a `.safetensors` with one set of weights.
        weights: "ema" or "model"; None is "ema" where there is a choice.

    Raises `DataError` or `ModelFolderError` for anything else.
    """
    if path.suffix == ".safetensors":
        if weights is not None:
            raise DataError(
                f"{path}: a safetensors file has one set of weights; leave --weights {weights} out"
            )
        return OfficialCheckpoint(load_weights(path), "its only set")
    content = _load(path)
    key = SETS[weights or "ema"]
    found = content.get(key) if isinstance(content, dict) else None
    if not _is_state(found):
        has = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path}: expected the weights under {key!r}, found {has}")
    args = content.get("args")
    return OfficialCheckpoint(found, key, vars(args) if isinstance(args, argparse.Namespace) else {})


def read_embedding(path: Path) -> torch.Tensor:
    """The LLM's embedding (V, D) float32: a `.pth` that is this tensor, or a file with one tensor `*embed_tokens*`.

    Raises `DataError` or `ModelFolderError`.
    """
    content = load_weights(path) if path.suffix == ".safetensors" else _load(path)
    if isinstance(content, torch.Tensor):
        content = {"embed_tokens": content}
    if not _is_state(content):
        raise DataError(f"{path}: expected a tensor, or tensors by name, got {type(content).__name__}")
    found = [value for key, value in content.items() if "embed_tokens" in key or len(content) == 1]
    if len(found) != 1 or found[0].ndim != 2:
        shapes = {key: tuple(value.shape) for key, value in list(content.items())[:4]}
        raise DataError(f"{path}: expected one tensor *embed_tokens* of two dimensions, found {shapes}")
    return found[0].float()


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items())
    )


def _load(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        # The training's options come as a Namespace, a plain record.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Mapped, since most of a checkpoint is the optimizer's state.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (
            f"it holds {named[1]}, which is neither a tensor nor a plain value"
            if named
            else "no valid pickle"
        )
        raise DataError(f"{path}: not loaded, for safety: {reason}") from error
    except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not a readable checkpoint ({error})") from error
