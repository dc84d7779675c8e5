"""How a job is cut into actors and batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v2flow_engine.offline.sizing import MAX_BATCH, plan

WISH = st.none() | st.integers(1, 12)


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(0, 8), WISH, WISH)
def test_every_actor_finds_a_place(
    rows: int, cpus: int, gpus: int, tokens: int | None, decoders: int | None
) -> None:
    sizing = plan(rows, cpus, gpus, tokens, decoders)
    actors = sizing.token_actors + sizing.decoder_actors
    assert actors * sizing.cpus_per_actor <= cpus + 1e-9
    assert 1 <= sizing.rows_per_batch <= MAX_BATCH
    batches = -(-rows // sizing.rows_per_batch)
    assert max(sizing.token_actors, sizing.decoder_actors) <= batches
    if gpus:  # a GPU holds as many as fit it whole
        assert actors <= gpus * int(1 / sizing.gpus_per_actor + 1e-9)
    else:
        assert sizing.gpus_per_actor == 0
        assert max(sizing.token_actors, sizing.decoder_actors) * sizing.threads <= max(cpus, actors)


@pytest.mark.parametrize(
    ("rows", "gpus", "expected"), [(16, 0, (1, 1)), (5000, 1, (1, 1)), (5000, 8, (4, 4)), (5000, 3, (1, 2))]
)
def test_pools_without_wishes(rows: int, gpus: int, expected: tuple[int, int]) -> None:
    sizing = plan(rows, 8, gpus)
    assert (sizing.token_actors, sizing.decoder_actors) == expected


def test_threads_are_those_of_one_machine() -> None:
    assert plan(5000, 64, 0, 4, 8, node_cpus=16).threads == 2
    assert plan(5000, 64, 4).threads == 0


def test_wishes_are_granted_where_there_is_work() -> None:
    sizing = plan(5000, 8, 0, 3, 2)
    assert (sizing.token_actors, sizing.decoder_actors) == (3, 2)
    sizing = plan(4, 8, 0, 3, 2)
    assert (sizing.token_actors, sizing.decoder_actors) == (1, 1)
