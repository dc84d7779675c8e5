"""Sets and maps of 64-bit hashes behave as Python's own do."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from v2flow_engine.offline import identity
from v2flow_engine.offline.identity import KeyMap, KeySet, fingerprint_of, key_of

NUMBERS = st.integers(0, 40) | st.integers(0, 2**64 - 1)


@given(st.lists(NUMBERS), st.lists(NUMBERS), st.lists(NUMBERS))
def test_a_set_holds_what_was_put_in(first: list[int], added: list[int], asked: list[int]) -> None:
    before = identity._MERGE_AT
    identity._MERGE_AT = 3
    try:
        keys = KeySet(first)
        for value in added:
            keys.add(value)
    finally:
        identity._MERGE_AT = before
    expected = {*first, *added}
    assert len(keys) == len(expected)
    assert [value in keys for value in asked] == [value in expected for value in asked]
    runs = [len(run) for run in keys._runs]  # few to look into, old ones seldom written anew
    assert all(older >= 2 * newer for older, newer in itertools.pairwise(runs))


@given(st.lists(st.tuples(NUMBERS, NUMBERS)), st.lists(NUMBERS))
def test_a_map_gives_the_last_value(pairs: list[tuple[int, int]], asked: list[int]) -> None:
    keys, values = np.array(pairs, dtype=np.uint64).reshape(-1, 2).T
    table = KeyMap(keys, values)
    expected = dict(pairs)
    assert len(table) == len(expected)
    assert [table.get(key) for key in asked + list(expected)] == [
        expected.get(key) for key in asked + list(expected)
    ]


def test_places_and_ids_are_told_apart() -> None:
    assert len({key_of(1), key_of("1"), key_of(2), key_of("place 1")}) == 4


def test_a_fingerprint_sees_everything_and_no_order() -> None:
    base = fingerprint_of("a cat", 1, {"rounds": 2, "size": "64x64"}, "png")
    assert base == fingerprint_of("a cat", 1, {"size": "64x64", "rounds": 2}, "png")
    others = [
        fingerprint_of("a dog", 1, {"rounds": 2, "size": "64x64"}, "png"),
        fingerprint_of("a cat", 2, {"rounds": 2, "size": "64x64"}, "png"),
        fingerprint_of("a cat", 1, {"rounds": 3, "size": "64x64"}, "png"),
        fingerprint_of("a cat", 1, {"rounds": 2, "size": "64x64"}, "webdataset/png"),
    ]
    assert len({base, *others}) == 5
