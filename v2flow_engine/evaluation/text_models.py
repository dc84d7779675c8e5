"""The two LLMs of `v2flow eval text`: one that draws, and the plain one that it was made from, with the same text ids.

Opening reads JSON files only; weights load when asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from v2flow_engine.checkpoint import open_model
from v2flow_engine.config import GenerationDefaults, load_json
from v2flow_engine.errors import ModelFolderError
from v2flow_engine.evaluation.texts import Text, text_ids
from v2flow_engine.llm_config import ARCHITECTURES, longest_sequence
from v2flow_engine.prompts import PromptEncoder
from v2flow_engine.vocabulary import VisualVocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PlainLlm:
    """A LLaMA or Phi-3 without visual tokens. vocab_size: rows of its embedding. longest: tokens of a sequence."""

    folder: Path
    tokenizer: Tokenizer
    vocab_size: int
    longest: int

    @classmethod
    def open(cls, folder: Path) -> PlainLlm:
        """Read config.json and tokenizer.json. Raises `ModelFolderError`."""
        source = folder / "config.json"
        config = _read_config(folder)
        if "v2flow" in config:
            raise ModelFolderError(f"{source}: this LLM has visual tokens; expected the plain one")
        if not isinstance(config.get("vocab_size"), int):
            raise ModelFolderError(
                f"{source}: vocab_size must be a whole number, got {config.get('vocab_size')!r}"
            )
        longest = longest_sequence(config, str(source))
        return cls(folder, read_tokenizer(folder), config["vocab_size"], longest)


@dataclass(frozen=True)
class DrawingLlm:
    """An LLM with visual tokens. defaults: how its model folder draws; of an llm/ folder alone, the project's own."""

    folder: Path
    tokenizer: Tokenizer
    vocabulary: VisualVocabulary
    encoder: PromptEncoder
    defaults: GenerationDefaults

    @classmethod
    def open(cls, name_or_dir: str) -> DrawingLlm:
        """An embedded model, a model folder or an llm/ folder. Raises `ModelFolderError`."""
        folder, defaults = Path(name_or_dir), GenerationDefaults()
        if not ((folder / "config.json").is_file() and "model_type" in load_json(folder / "config.json")):
            model = open_model(name_or_dir)
            folder, defaults = model.llm_dir, model.defaults
        config, source = _read_config(folder), str(folder / "config.json")
        vocabulary = VisualVocabulary.from_llm_config(config, source)
        tokenizer = read_tokenizer(folder)
        encoder = PromptEncoder(folder, vocabulary, longest_sequence(config, source))
        return cls(folder, tokenizer, vocabulary, encoder, defaults)

    @property
    def longest(self) -> int:
        """The most tokens of a sequence."""
        return self.encoder.max_model_len

    @property
    def smallest_size(self) -> str:
        """The size "WxH" with the fewest visual tokens."""
        return min(self.vocabulary.grids, key=lambda size: (self.vocabulary.num_visual_tokens(size), size))


def same_text_ids(base: PlainLlm, model: DrawingLlm, texts: Sequence[Text]) -> list[list[int]]:
    """The ids of each text, which both LLMs must agree in. Raises `ModelFolderError` where they do not."""
    if model.vocabulary.text_vocab_size != base.vocab_size:
        raise ModelFolderError(
            f"{model.folder}: has {model.vocabulary.text_vocab_size} text ids, and {base.folder} "
            f"{base.vocab_size}; expected the LLM that it was made from"
        )
    return [_same_ids(base, model, text) for text in texts]


def _same_ids(base: PlainLlm, model: DrawingLlm, text: Text) -> list[int]:
    expected, found = text_ids(base.tokenizer, text), text_ids(model.tokenizer, text)
    for place, (ours, theirs) in enumerate(zip_longest(expected, found)):
        if ours != theirs:
            raise ModelFolderError(
                f"{model.folder}: token {place} of {text.source} is {theirs}, and {ours} in {base.folder}; "
                "expected the same text tokenizer"
            )
    return expected


def read_tokenizer(folder: Path) -> Tokenizer:
    """tokenizer.json, for texts of any length; names of special tokens in them are text. Raises `ModelFolderError`."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelFolderError(f"{path}: no such file")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ModelFolderError(f"{path}: not a readable tokenizer ({error})") from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_llm(folder: Path, device: str) -> PreTrainedModel:
    """The LLM in float32, in eval mode. Raises `ModelFolderError` where weights are missing, damaged or do not fit."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        llm, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelFolderError(f"{folder}: cannot be loaded ({error})") from error
    if info["missing_keys"]:  # transformers would draw them at random
        raise ModelFolderError(f"{folder}: weights are missing: {sorted(info['missing_keys'])[:3]}")
    return llm.to(device).eval()


def _read_config(folder: Path) -> dict[str, Any]:
    config = load_json(folder / "config.json")
    if config.get("model_type") not in ARCHITECTURES:
        raise ModelFolderError(
            f"{folder}/config.json: model_type must be one of {', '.join(ARCHITECTURES)}, "
            f"got {config.get('model_type')!r}"
        )
    return config
