"""The checks of generation parameters; the limits themselves are in `config`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from v2flow_engine.errors import RequestError


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """Return `value` as an int in [low, high]; raises `RequestError` naming the parameter."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number from {low} to {high}, got {_shown(value)}", name)
    return value


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return `value` if it is one of `choices`; raises `RequestError` naming the parameter."""
    if value not in choices:
        raise RequestError(f"{name} must be {' or '.join(choices)}, got {_shown(value)}", name)
    return value


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """Return `value` as a finite float in [low, high]; raises `RequestError` naming the parameter."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # neither NaN nor an infinity passes
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}, got {_shown(value)}", name)
    return float(value)


def _shown(value: Any) -> str:
    """A value as a message shows it: nobody wants to read a number of a thousand digits."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers beyond 4,300 digits
        return "a number that is far too large"
    return text if len(text) <= 80 else f"{text[:77]}..."
