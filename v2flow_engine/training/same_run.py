"""Is the run that a checkpoint is of the one that is asked for? All must be equal that changes what comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from v2flow_engine.differences import differences

# Of the settings, what may change when a run goes on: its length, how it is computed, how often it tells of itself, and
# how much text counts and is looked at, which may turn out to be wrong on the way.
_FREE = (
    *("loop.steps", "loop.accumulate", "loop.log_every", "loop.checkpoint_every", "loop.sample_every"),
    *("text_share", "text_weight"),
)
FREE = frozenset(f"settings.{name}" for name in _FREE)


def what_differs(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What keeps a run from going on, see `differences`; empty if nothing does. Both hold JSON."""
    return differences(dict(_fixed(was)), dict(_fixed(json.loads(json.dumps(now)))))


def _fixed(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves that may not change, by their dotted names."""
    for key, value in values.items():
        name = prefix + key
        if isinstance(value, Mapping):
            yield from _fixed(value, f"{name}.")
        elif name not in FREE:
            yield name, value
