"""What `convert llm --base` may be given: a LLaMA or Phi-3 checkpoint as a folder, or as one GGUF file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v2flow_engine.config import load_json
from v2flow_engine.converting.gguf import check_readable, unpack
from v2flow_engine.converting.shards import Shards
from v2flow_engine.errors import DataError, ModelFolderError
from v2flow_engine.llm_config import ARCHITECTURES

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class BaseLlm:
    """A plain checkpoint, its config and what its files hold checked against each other."""

    folder: Path
    config: dict[str, Any]
    shards: Shards

    @classmethod
    def open(cls, folder: Path) -> BaseLlm:
        """Read config.json and the headers of the weights. Raises `ModelFolderError`."""
        source = folder / "config.json"
        config = load_json(source)
        if config.get("model_type") not in ARCHITECTURES:
            raise ModelFolderError(
                f"{source}: model_type must be one of {', '.join(ARCHITECTURES)}, got {config.get('model_type')!r}"
            )
        if "v2flow" in config:
            raise ModelFolderError(f"{source}: this LLM has visual tokens already")
        if config.get("quantization_config"):
            raise ModelFolderError(f"{source}: the weights are quantized; expected plain ones")
        base = cls(folder, config, Shards(folder))
        for name in (EMBEDDING,) if base.tied else (EMBEDDING, HEAD):
            expected = (config.get("vocab_size"), config.get("hidden_size"))
            if (shape := base.shards.shape(name)) != expected:
                raise ModelFolderError(f"{source}: {name} has shape {shape}, expected {expected}")
        return base

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one weight; neither architecture ties by default."""
        return bool(self.config.get("tie_word_embeddings", False))

    @property
    def bos_id(self) -> int:
        """The id that every sequence begins with."""
        default = 1  # of both architectures, where a config leaves it out
        bos_id = self.config.get("bos_token_id", default)
        if not isinstance(bos_id, int):
            raise ModelFolderError(
                f"{self.folder}/config.json: bos_token_id must be a whole number, got {bos_id!r}"
            )
        return bos_id


@contextlib.contextmanager
def open_base(path: Path, beside: Path) -> Iterator[BaseLlm]:
    """A folder as it is; a GGUF file unpacked into a temporary folder in the folder `beside`.

    Raises `ModelFolderError` or `DataError`.
    """
    if path.suffix.lower() != ".gguf":
        yield BaseLlm.open(path)
        return
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    check_readable(path)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".gguf-") as unpacked:
        unpack(path, Path(unpacked))
        yield BaseLlm.open(Path(unpacked))
