"""--prompt texts, a text file or standard input -> prompts with the place that each came from.

Knows nothing of models: whether a prompt is usable is decided elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from v2flow_engine.errors import DataError

STDIN = "-"


@dataclass(frozen=True)
class SourcePrompt:
    """A prompt, and where it stands in words for an error message, such as "line 7"."""

    text: str
    origin: str


def prompts_from_flags(texts: Sequence[str]) -> list[SourcePrompt]:
    """The texts of repeated --prompt flags."""
    return [SourcePrompt(text, f"--prompt {number}") for number, text in enumerate(texts, start=1)]


def prompts_from_file(name: str, stdin: BinaryIO | None = None) -> list[SourcePrompt]:
    """One prompt per line of a UTF-8 text file, or of standard input for "-".

    Blank lines and lines that begin with `#` are skipped. Raises `DataError` if the file is missing,
    unreadable, not text, or holds no prompt.
    """
    source = "standard input" if name == STDIN else name
    try:
        data = (stdin or sys.stdin.buffer).read() if name == STDIN else Path(name).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{source}: cannot read prompts ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}: prompts must be UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    prompts = [
        SourcePrompt(line.strip(), f"{source}, line {number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not prompts:
        raise DataError(f"{source}: holds no prompt (one per line; # begins a comment)")
    return prompts
