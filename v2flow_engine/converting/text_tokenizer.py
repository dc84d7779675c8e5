"""A text tokenizer gets the control tokens, under the ids that the vocabulary gives them.

Visual tokens are not in it: they are written by the model and read as codes, never as text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from v2flow_engine.config import load_json
from v2flow_engine.errors import ModelFolderError
from v2flow_engine.llm_config import BESIDE_TOKENIZER
from v2flow_engine.vocabulary import VisualVocabulary


def control_tokens(vocabulary: VisualVocabulary) -> dict[str, int]:
    """Text -> id of every control token."""
    sizes = {f"<|image_size_{size}|>": token_id for size, token_id in vocabulary.size_token_ids.items()}
    return {
        "<|image_start|>": vocabulary.image_start_id,
        "<|image_end|>": vocabulary.image_end_id,
        "<|image_null|>": vocabulary.null_id,
        **sizes,
    }


def extend_tokenizer(base: Path, vocabulary: VisualVocabulary, out: Path) -> None:
    """Write `out`/tokenizer.json and the files beside it.

    Embeddings are often padded beyond the tokenizer, and a tokenizer numbers what is added without gaps, so the ids
    between get names that no text has. Raises `ModelFolderError` for a base without tokenizer.json, or one whose
    ids do not fit.
    """
    path = base / "tokenizer.json"
    if not path.is_file():
        raise ModelFolderError(
            f"{path}: no such file; transformers makes one: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ModelFolderError(f"{path}: not a readable tokenizer ({error})") from error
    added = _add(tokenizer, vocabulary, str(path))
    tokenizer.save(str(out / "tokenizer.json"))
    settings = base / "tokenizer_config.json"
    if settings.is_file():
        values = load_json(settings)
        if isinstance(known := values.get("added_tokens_decoder"), dict):
            values["added_tokens_decoder"] = known | added
        (out / settings.name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for name in BESIDE_TOKENIZER:
        if (base / name).is_file():
            (out / name).write_bytes((base / name).read_bytes())


def _add(tokenizer: Tokenizer, vocabulary: VisualVocabulary, source: str) -> dict[str, dict[str, Any]]:
    """Add the tokens; returns them as tokenizer_config.json lists them."""
    control = control_tokens(vocabulary)
    first = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if first > vocabulary.text_vocab_size:
        raise ModelFolderError(
            f"{source}: has ids up to {first - 1}, and the embedding {vocabulary.text_vocab_size} rows"
        )
    wanted = {f"<|unused_{i}|>": i for i in range(first, vocabulary.text_vocab_size)} | control
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in wanted])
    for text, token_id in wanted.items():
        if (got := tokenizer.token_to_id(text)) != token_id:
            raise ModelFolderError(f"{source}: {text} has the id {got}, expected {token_id}")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(token_id): {"content": text, **flags} for text, token_id in wanted.items()}
