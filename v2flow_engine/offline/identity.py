"""Which picture is it, and is it the same as before? Two 64-bit hashes, and sets of them that take 8 bytes each.

`key_of`: a picture's identity, its id or, where its row has none, its place in the job. `fingerprint_of`: a hash of
all that it is made from. The same key with another fingerprint is a changed picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np

_MERGE_AT = 65_536


def key_of(picture_id: int | str) -> int:
    """An int is a picture's place in the job, a str its id."""
    return _hash(f"{'place' if isinstance(picture_id, int) else 'id'} {picture_id}")


def fingerprint_of(prompt: str, seed: int, parameters: dict[str, Any], image_format: str) -> int:
    """A hash of what a picture is made from, and of the form in which it is kept."""
    return _hash(json.dumps([prompt, seed, with_defaults(parameters), image_format], sort_keys=True))


def with_defaults(parameters: dict[str, Any]) -> dict[str, Any]:
    """Older manifests name neither the guidance schedule nor the solver: there was only one. dtype is named only where
    it was asked for.
    """
    return {"guidance_schedule": "constant", "solver": "dpm_solver_pp_2m", "dtype": "auto", **parameters}


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class KeySet:
    """A growing set of 64-bit integers, 8 bytes each and some megabytes for those that came last.

    They are in sorted runs, each at least twice as long as the next one: few to look into, and old ones are seldom
    written anew. One array that grows would leave a hole of its own size in the heap each time.
    """

    def __init__(self, values: np.ndarray | Iterable[int] = ()) -> None:
        array = values if isinstance(values, np.ndarray) else np.fromiter(values, dtype=np.uint64)
        self._runs = [np.unique(array.astype(np.uint64, copy=False))]
        self._recent: set[int] = set()

    def __contains__(self, value: int) -> bool:
        return value in self._recent or any(_place(run, value) is not None for run in self._runs)

    def __len__(self) -> int:
        return sum(map(len, self._runs)) + len(self._recent)

    def add(self, value: int) -> None:
        """Add one that may be there already."""
        if value in self:
            return
        self._recent.add(value)
        if len(self._recent) >= _MERGE_AT:
            run = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
            self._recent.clear()
            while self._runs and len(self._runs[-1]) < 2 * len(run):
                run = np.concatenate([self._runs.pop(), run])
            run.sort()
            self._runs.append(run)


class KeyMap:
    """64-bit keys -> 64-bit values, built once; 16 bytes each. Of a key that is given twice the last value holds."""

    def __init__(self, keys: np.ndarray, values: np.ndarray) -> None:
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        last = np.append(keys[1:] != keys[:-1], True) if len(keys) else np.zeros(0, dtype=bool)
        self._keys, self._values = keys[last], values[last]

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: int) -> int | None:
        """The value of a key, or None."""
        place = _place(self._keys, key)
        return None if place is None else int(self._values[place])


def _place(keys: np.ndarray, key: int) -> int | None:
    """Where a key stands among sorted ones; None if it does not."""
    place = int(keys.searchsorted(np.uint64(key)))
    return place if place < len(keys) and int(keys[place]) == key else None
