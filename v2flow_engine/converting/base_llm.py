"""What `convert llm --base` may be given: a LLaMA or Phi-3 checkpoint as a folder, or as one GGUF file."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from v2flow_engine.config import load_json
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
    if importlib.util.find_spec("gguf") is None:
        raise DataError(
            f"{path}: reading GGUF needs the package gguf, which is not installed: pip install gguf"
        )
    with tempfile.TemporaryDirectory(dir=beside, prefix=".gguf-") as unpacked:
        _unpack(path, Path(unpacked))
        yield BaseLlm.open(Path(unpacked))


def _unpack(path: Path, folder: Path) -> None:
    """GGUF -> config, safetensors in float16 and tokenizer, by transformers, which holds the whole model meanwhile."""
    import transformers

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    # Newer releases would else keep the weights packed, and cannot save those.
    packing = getattr(transformers, "GgufConfig", None)
    plain = {} if packing is None else {"quantization_config": packing(dequantize=True)}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        model = transformers.AutoModelForCausalLM.from_pretrained(**source, **plain, dtype=torch.float16)
    except (ValueError, KeyError, NotImplementedError, ImportError, OSError) as error:
        raise DataError(f"{path}: transformers cannot read it as an LLM ({error})") from error
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    _drop_tokens_beyond(model.config.vocab_size, folder / "tokenizer.json")


def _drop_tokens_beyond(vocab_size: int, path: Path) -> None:
    """Special tokens that transformers adds to every tokenizer of a class; the LLM has no rows for them."""
    content = load_json(path)
    content["added_tokens"] = [each for each in content["added_tokens"] if each["id"] < vocab_size]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
