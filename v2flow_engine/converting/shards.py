"""A checkpoint's safetensors files, read tensor by tensor and written file by file.

Neither ever holds more than what one file holds. Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from v2flow_engine.config import load_json
from v2flow_engine.errors import ModelFolderError, OutputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Shards:
    """Which tensor is in which file of a folder.

    files: file name -> its tensors' names, in the order of the files' names. Raises `ModelFolderError` for a folder
    that has neither model.safetensors nor an index, and for files that are missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, list[str]] = {}
        if (folder / INDEX).is_file():
            listed = load_json(folder / INDEX).get("weight_map")
            if not isinstance(listed, dict) or not listed:
                raise ModelFolderError(f"{folder / INDEX}: no weight_map")
            names = sorted(set(listed.values()))
        elif (folder / SINGLE).is_file():
            names = [SINGLE]
        else:
            raise ModelFolderError(
                f"{folder}: neither {SINGLE} nor {INDEX}; weights in another format must be saved as safetensors first"
            )
        for name in names:
            try:
                with safe_open(str(folder / name), framework="pt") as file:
                    self.files[name] = list(file.keys())
            except (SafetensorError, OSError) as error:
                raise ModelFolderError(
                    f"{folder / name}: not a readable safetensors file ({error})"
                ) from error
        self._file_of = {tensor: name for name, tensors in self.files.items() for tensor in tensors}

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._file_of

    def shape(self, tensor: str) -> tuple[int, ...]:
        """A tensor's shape, from its file's header."""
        with safe_open(str(self._path(tensor)), framework="pt") as file:
            return tuple(file.get_slice(tensor).get_shape())

    def read(self, tensor: str) -> torch.Tensor:
        """One tensor, from whichever file has it. Raises `ModelFolderError` if none has."""
        with safe_open(str(self._path(tensor)), framework="pt") as file:
            return file.get_tensor(tensor)

    def _path(self, tensor: str) -> Path:
        if tensor not in self._file_of:
            raise ModelFolderError(f"{self.folder}: no weight {tensor}")
        return self.folder / self._file_of[tensor]


def write_shards(
    folder: Path, names: Sequence[str], build: Callable[[str], Mapping[str, torch.Tensor]]
) -> None:
    """Write `build(name)` to each file in turn, and an index where there are several.

    A file for which nothing is built is left out. Raises `OutputError` if it cannot be written.
    """
    places: dict[str, str] = {}
    total = 0
    for name in names:
        tensors = dict(build(name))
        if not tensors:
            continue
        try:
            save_file(tensors, str(folder / name), metadata={"format": "pt"})
        except (SafetensorError, OSError) as error:
            raise OutputError(f"{folder / name}: cannot be written ({error})") from error
        places |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
        del tensors  # before the next ones are read
    if list(names) != [SINGLE]:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
