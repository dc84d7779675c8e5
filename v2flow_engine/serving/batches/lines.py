"""A batch's input file -> its requests, or what is wrong with them. Knows nothing of what is asked in a request."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_ERRORS = 100  # that are told
MAX_CUSTOM_ID = 512  # characters


@dataclass(frozen=True)
class Line:
    """One request. number: of its line, from 1."""

    number: int
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True)
class LineError:
    """Why a batch fails before it begins. line: None if it is the whole file's fault."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


def check_input(path: Path, endpoint: str, max_lines: int) -> tuple[int, list[LineError]]:
    """How many requests a file holds, and the first hundred mistakes in their frames; bodies are looked at later."""
    errors: list[LineError] = []
    seen: set[str] = set()
    count = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            count += 1
            if count > max_lines:
                told = f"A batch may have {max_lines} requests; this file has more."
                return count, [LineError("too_many_tasks", told)]
            line = _parsed(raw, number, endpoint)
            if isinstance(line, Line):
                if line.custom_id in seen:
                    told = f"custom_id {_short(line.custom_id)} is that of an earlier line."
                    line = LineError("duplicate_custom_id", told, "custom_id", number)
                else:
                    seen.add(line.custom_id)
            if isinstance(line, LineError) and len(errors) < MAX_ERRORS:
                errors.append(line)
    if not count:
        return 0, [LineError("empty_file", "The file holds no request.")]
    return count, errors


def read_lines(path: Path, endpoint: str, done: Container[str]) -> Iterator[Line]:
    """The requests of a file that `check_input` found nothing wrong with, but for those that are done."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                line = _parsed(raw, number, endpoint)
                assert isinstance(line, Line)
                if line.custom_id not in done:
                    yield line


def _parsed(raw: bytes, number: int, endpoint: str) -> Line | LineError:
    try:
        value = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError):
        return LineError("invalid_json_line", "This line is not valid JSON.", None, number)
    if not isinstance(value, dict):
        return LineError("invalid_json_line", "This line is JSON, but no object.", None, number)
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        if name not in value:
            told = f"Missing required parameter: {name!r}."
            return LineError("missing_required_parameter", told, name, number)
        if not isinstance(value[name], kind):
            told = f"{name} must be {'an object' if kind is dict else 'a string'}."
            return LineError("invalid_value", told, name, number)
    custom_id = value["custom_id"]
    if not 1 <= len(custom_id) <= MAX_CUSTOM_ID:
        told = f"custom_id must have 1 to {MAX_CUSTOM_ID} characters, got {len(custom_id)}."
        return LineError("invalid_value", told, "custom_id", number)
    if value["method"] != "POST":
        return LineError(
            "invalid_value", f"method must be POST, got {_short(value['method'])}.", "method", number
        )
    if value["url"] != endpoint:
        told = f"url must be the batch's endpoint, {endpoint}, got {_short(value['url'])}."
        return LineError("url_mismatch", told, "url", number)
    return Line(number, custom_id, value["body"])


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
