"""A GGUF file -> a plain folder: config, safetensors, tokenizer; read by transformers and the package gguf."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from v2flow_engine.config import load_json
from v2flow_engine.errors import DataError


def check_readable(asker: object) -> None:
    """Raise `DataError` that names the asker if the package gguf is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise DataError(
            f"{asker}: reading GGUF needs the package gguf, which is not installed: pip install gguf"
        )


def unpack(path: Path, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write an LLM with its tokenizer into a folder; the whole model is in memory meanwhile. Raises `DataError`."""
    import transformers

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    # Newer releases would else keep the weights packed, and cannot save those.
    packing = getattr(transformers, "GgufConfig", None)
    plain = {} if packing is None else {"quantization_config": packing(dequantize=True)}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        model = transformers.AutoModelForCausalLM.from_pretrained(**source, **plain, dtype=dtype)
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
