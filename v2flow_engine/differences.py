"""Two plain mappings -> what is not the same in them, for people who asked for one and found the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each as "name was this, now that", those that only `now` has last; a name that is missing counts as None."""
    told = {name: (was.get(name), now.get(name)) for name in [*was, *now]}
    return [f"{name} was {old!r}, now {new!r}" for name, (old, new) in told.items() if old != new]
