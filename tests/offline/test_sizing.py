"""How a job is cut into actors and batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v2flow_engine.offline.sizing import MAX_BATCH, Cluster, calibrated, plan, wants_calibration

WISH = st.none() | st.integers(1, 12)


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(0, 8), WISH, WISH)
def test_every_actor_finds_a_place(
    rows: int, cpus: int, gpus: int, tokens: int | None, decoders: int | None
) -> None:
    sizing = plan(rows, Cluster(cpus, gpus), tokens, decoders)
    actors = sizing.token_actors + sizing.decoder_actors
    assert actors * sizing.cpus_per_actor <= cpus + 1e-9
    assert 1 <= sizing.rows_per_batch <= MAX_BATCH
    batches = -(-rows // sizing.rows_per_batch)
    assert max(sizing.token_actors, sizing.decoder_actors) <= batches
    if gpus:  # a GPU holds as many as fit it whole
        assert actors <= gpus * int(1 / sizing.gpus_per_actor + 1e-9)
    else:
        assert sizing.gpus_per_actor == 0
        assert max(sizing.token_actors, sizing.decoder_actors) * sizing.threads <= max(2 * cpus, actors)


@pytest.mark.parametrize(
    ("rows", "gpus", "expected"), [(16, 0, (1, 1)), (5000, 1, (1, 1)), (5000, 8, (4, 4)), (5000, 3, (1, 2))]
)
def test_pools_without_wishes(rows: int, gpus: int, expected: tuple[int, int]) -> None:
    sizing = plan(rows, Cluster(8, gpus))
    assert (sizing.token_actors, sizing.decoder_actors) == expected


def test_threads_are_those_of_one_machine() -> None:
    assert plan(5000, Cluster(64, nodes=4, node_cpus=16), 4, 8).threads == 8
    assert plan(5000, Cluster(64, 4)).threads == 0


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.integers(1, 64),
    st.integers(1, 4),
    WISH,
    WISH,
)
def test_threads_do_not_follow_from_what_is_left_to_do(
    rows: tuple[int, int], each: int, nodes: int, tokens: int | None, decoders: int | None
) -> None:
    """A picture of a job that goes on, or that is made after the ratio was measured, has the same bytes."""
    cluster = Cluster(nodes * each, nodes=nodes, node_cpus=each)
    first, later = (plan(left, cluster, tokens, decoders) for left in rows)
    assert first.threads == later.threads
    assert plan(rows[0], cluster).threads == calibrated(rows[1], cluster, 0.3, 0.1).threads


def test_wishes_are_granted_where_there_is_work() -> None:
    sizing = plan(5000, Cluster(8), 3, 2)
    assert (sizing.token_actors, sizing.decoder_actors) == (3, 2)
    sizing = plan(4, Cluster(8), 3, 2)
    assert (sizing.token_actors, sizing.decoder_actors) == (1, 1)


@given(st.integers(2, 8), st.integers(4, 32), st.integers(1, 12), st.integers(1, 12))
def test_the_actors_find_a_place_when_a_machine_is_lost(
    nodes: int, each: int, tokens: int, decoders: int
) -> None:
    sizing = plan(5000, Cluster(nodes * each, nodes=nodes, node_cpus=each), tokens, decoders)
    actors = sizing.token_actors + sizing.decoder_actors
    assert actors * sizing.cpus_per_actor <= (nodes - 1) * each + 1e-9 or sizing.cpus_per_actor <= 0.01


def test_a_ratio_is_measured_where_there_is_one_to_choose() -> None:
    assert not wants_calibration(10**6, Cluster(8))
    assert not wants_calibration(10**6, Cluster(16, gpus=1))
    assert wants_calibration(10**6, Cluster(64, gpus=8))
    assert wants_calibration(10**6, Cluster(24, nodes=3, node_cpus=8))
    assert not wants_calibration(10**6, Cluster(64, gpus=8), 4, None)
    assert not wants_calibration(100, Cluster(64, gpus=8))


@given(st.floats(1e-4, 10), st.floats(1e-4, 10), st.integers(3, 16))
def test_the_measured_ratio_keeps_both_pools_busy(tokens: float, decoder: float, gpus: int) -> None:
    sizing = calibrated(10**6, Cluster(8 * gpus, gpus), tokens, decoder)
    pools = sizing.token_actors, sizing.decoder_actors
    assert sum(pools) == gpus and min(pools) >= 1
    rates = [count / seconds for count, seconds in zip(pools, (tokens, decoder), strict=True)]
    for change in (-1, 1):  # no other split makes the slower pool faster
        other = pools[0] + change, pools[1] - change
        if min(other) >= 1:
            slower = min(other[0] / tokens, other[1] / decoder)
            assert slower <= min(rates) * (1 + 1 / min(pools)) + 1e-9
