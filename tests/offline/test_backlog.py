"""Rows that kill their workers become errors, however many they are, and no other row does.

The passes are those of `RayRun`; Ray's part in them is played by a loop, so that many a pattern can be tried. See
`test_job` for a few of them on Ray itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.offline.pictures import finished, picture
from v2flow_engine.errors import DataError, EngineDeadError
from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.offline.actors import ActorConfig
from v2flow_engine.offline.backlog import Backlog
from v2flow_engine.offline.job import MAX_LOST_BATCHES, RayRun
from v2flow_engine.offline.sizing import Sizing
from v2flow_engine.offline.stages import FinishedImage
from v2flow_engine.offline.supply import Supply


class OneActor(RayRun):
    """Batches one after the other; with one that kills goes the next, unless batches of one row are made alone."""

    def __init__(self, kills: Callable[[ImageRequest], bool]) -> None:
        super().__init__(ActorConfig("tiny", "cpu", "png", {}, guided=True))
        self.kills = kills
        self.passes = 0
        self.sizes: dict[int, set[int]] = {}  # index -> how many rows shared a batch with it

    def _pass(self, backlog: Backlog, supply: Supply, sizing: Sizing, alone: bool) -> Iterator[FinishedImage]:
        self.passes += 1
        self._worked, died_with, lost = False, set(), 0
        batches = enumerate(supply.batches)
        for number, batch in batches:
            supply.unfinished[number] = batch
            if any(map(self.kills, batch)):
                died_with.add(number)
                lost += 1
                if not alone and (neighbour := next(batches, None)) is not None:
                    supply.unfinished[neighbour[0]] = neighbour[1]
                    lost += 1
                self._died_with = frozenset(died_with)
                if lost > MAX_LOST_BATCHES:
                    raise EngineDeadError("too many are lost")
                continue
            self._worked = True
            for request in batch:
                if self.outstanding.pop(request.index, None) is not None:
                    self.sizes[request.index] = {len(batch)}
                    backlog.made(request)
                    yield finished(request.index)
            supply.finished(number)
        self._died_with = frozenset(died_with)


def sizing(rows: int) -> Sizing:
    return Sizing(1, 1, 0.5, 0.0, rows_per_batch=rows, threads=1)


def requests(count: int) -> list[ImageRequest]:
    return [picture(index).request for index in range(count)]


@given(st.integers(1, 5), st.lists(st.booleans(), min_size=1, max_size=80))
@example(4, [True, False, False, False] * 20)  # one in each batch
@example(3, [True] * 12 + [False] * 12)
@example(3, [False] * 12 + [True] * 60)
@example(4, [index % 9 == 0 for index in range(80)])
def test_rows_that_kill_become_errors_and_no_others(rows: int, kills: list[bool]) -> None:
    run = OneActor(lambda request: kills[request.index])
    made: list[FinishedImage] = []
    try:
        for each in run.images(iter(requests(len(kills))), sizing(rows)):
            made.append(each)
    except EngineDeadError:  # only if nothing at all has come out: then it may be the pipeline
        assert not [each for each in made if not each.error]
        assert sum(kills) >= MAX_LOST_BATCHES
        return
    assert sorted(each.index for each in made) == list(range(len(kills)))
    assert {each.index: bool(each.error) for each in made} == dict(enumerate(kills))
    assert run.outstanding == {}
    whole = len(kills) // rows * rows
    for start in range(0, whole, rows):  # a batch without one keeps its bytes
        if not any(kills[start : start + rows]):
            assert all(run.sizes[index] == {rows} for index in range(start, start + rows))


def test_a_job_of_which_every_row_kills_ends_with_errors() -> None:
    made = list(OneActor(lambda request: True).images(iter(requests(3)), sizing(3)))
    assert sorted(each.index for each in made if "died 2 times with it alone" in each.error) == [0, 1, 2]


@pytest.mark.parametrize("dies_at", [0, 40])
def test_workers_that_die_at_everything_end_the_job_and_are_no_rows_fault(dies_at: int) -> None:
    """From the start, or from a moment on."""
    made: list[FinishedImage] = []
    run = OneActor(lambda request: len(made) >= dies_at)
    with pytest.raises(EngineDeadError):
        for each in run.images(iter(requests(1000)), sizing(4)):
            made.append(each)
    assert [each.index for each in made if not each.error] == list(range(dies_at))
    assert [each for each in made if each.error] == []
    assert run.passes <= 3


def test_what_the_source_raises_is_told_when_all_before_it_is_finished() -> None:
    def vanishing() -> Iterator[ImageRequest]:
        yield from requests(30)
        raise DataError("rows.txt: gone")

    made: list[FinishedImage] = []
    with pytest.raises(DataError, match="gone"):
        for each in OneActor(lambda request: request.index % 5 == 0).images(vanishing(), sizing(4)):
            made.append(each)
    assert sorted(each.index for each in made) == list(range(30))
    assert sorted(each.index for each in made if each.error) == list(range(0, 30, 5))
