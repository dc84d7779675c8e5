"""Is the run that a checkpoint is of the one that is asked for? All must be equal that changes what comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

# Of the settings, what may change when a run goes on: its length, how it is computed, how often it tells of itself, and
# how much text counts, which may turn out to be wrong on the way.
_FREE = (
    *("loop.steps", "loop.accumulate", "loop.log_every", "loop.checkpoint_every", "loop.sample_every"),
    "text_weight",
)
FREE = frozenset(f"settings.{name}" for name in _FREE)


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What keeps a run from going on, each as "name was this, now that"; empty if nothing does. Both hold JSON."""
    before, after = dict(_leaves(was)), dict(_leaves(json.loads(json.dumps(now))))
    names = [name for name in {**before, **after} if name not in FREE]
    told = {name: (before.get(name), after.get(name)) for name in names}
    return [f"{name} was {old!r}, now {new!r}" for name, (old, new) in told.items() if old != new]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
