"""Files of plain text -> windows of token ids, which an LLM should find as likely after training as before.

Knows nothing of pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from v2flow_engine.errors import DataError
from v2flow_engine.text_files import numbered_lines, read_text


def text_windows(paths: Sequence[Path], tokenizer: Tokenizer, window: int) -> torch.Tensor:
    """(n, window) int32: each text cut from its start, what is left over at its end dropped.

    Raises `DataError` for a file that cannot be read, and where no text is as long as a window.
    """
    texts = [text for path in paths for text in read_texts(path)]
    rows = []
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        ids = encoding.ids
        rows += [ids[start : start + window] for start in range(0, len(ids) - window + 1, window)]
    if not rows:
        raise DataError(
            f"{', '.join(map(str, paths))}: {len(texts)} texts, none of at least {window} tokens (text_window)"
        )
    return torch.tensor(rows, dtype=torch.int32)


def read_texts(path: Path) -> Iterator[str]:
    """The texts of a file: of JSONL each line's `text`, else the file as one."""
    content = read_text(path, "text")
    if path.suffix != ".jsonl":
        yield content
        return
    for number, line in numbered_lines(content):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: expected a JSON object with text") from error
        if not isinstance(text, str):
            raise DataError(f"{path}, line {number}: text is {type(text).__name__}, expected a string")
        yield text
