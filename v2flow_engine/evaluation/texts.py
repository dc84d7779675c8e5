"""Plain English, from files or from Python's own documentation -> windows of text ids.

Knows nothing of models; a tokenizer is all that it needs.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from v2flow_engine.errors import DataError
from v2flow_engine.text_files import read_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MIN_CHARACTERS = 80
MIN_LETTERS = 0.92  # of a paragraph's characters, spaces counted as such


@dataclass(frozen=True)
class Text:
    """What is read, and where it came from."""

    source: str
    content: str


def text_of(path: Path) -> Text:
    """A file in UTF-8. Raises `DataError` for one that cannot be read or is empty."""
    content = read_text(path, "text")
    if not content.strip():
        raise DataError(f"{path}: is empty, expected text")
    return Text(str(path), content)


def python_prose() -> Text:
    """The paragraphs of `pydoc_data.topics`, each once, in this Python's wording. Raises `DataError` without them."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError("this Python comes without pydoc_data.topics; expected a text of your own") from error
    kept = [prose for topic in topics.values() for part in topic.split("\n\n") if (prose := as_prose(part))]
    source = f"pydoc_data.topics of Python {platform.python_version()}"
    return Text(source, "\n\n".join(dict.fromkeys(kept)))


def as_prose(paragraph: str) -> str | None:
    """The paragraph on one line; None for what is no prose: a heading, code, a table, a list, much markup."""
    lines = [line for line in paragraph.splitlines() if line.strip()]
    if len({len(line) - len(line.lstrip()) for line in lines}) != 1:
        return None
    prose = " ".join(paragraph.split())
    letters = sum(each.isalpha() or each == " " for each in prose)
    sentence = prose[0].isalpha() and prose.endswith(".") and len(prose) >= MIN_CHARACTERS
    return prose if sentence and letters >= MIN_LETTERS * len(prose) else None


def text_ids(tokenizer: Tokenizer, text: Text) -> list[int]:
    """All ids of a text, without special tokens; "<s>" in it is text if the tokenizer was told so."""
    return tokenizer.encode(text.content, add_special_tokens=False).ids


def cut_windows(ids: Sequence[Sequence[int]], sources: Sequence[str], length: int) -> torch.Tensor:
    """Texts as ids -> windows (n, length) int64 that follow each other without overlap, none across two texts.

    What is left at a text's end is dropped. Raises `DataError` for a text too short for one window.
    """
    for each, source in zip(ids, sources, strict=True):
        if len(each) < length:
            raise DataError(f"{source}: has {len(each)} tokens, expected {length} or more for one window")
    cut = [torch.tensor(each)[: len(each) // length * length].view(-1, length) for each in ids]
    return torch.cat(cut)
