"""How the cores of a machine are shared by two engines in one process."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from tests.engine_common import one_thread
from v2flow_engine.serving.cores import (
    STAGES,
    VARIABLE,
    share_cores,
    threads_of_a_replica,
    threads_of_the_user,
)


def threads_of_a_new_thread(before: int) -> int:
    """torch's, in a thread that begins after the cores were shared, or were not."""
    found: list[int] = []
    with one_thread():
        torch.set_num_threads(before)
        share_cores()
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    return found[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU does the work")
def test_each_stage_gets_half_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    half = max(1, len(os.sched_getaffinity(0)) // STAGES)
    assert threads_of_a_new_thread(half + 1) == half
    assert [threads_of_a_replica(8, replicas) for replicas in (1, 2, 3, 16)] == [8, 4, 2, 1]


def test_who_sets_the_variable_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "3")
    assert threads_of_a_new_thread(2) == 2
    assert threads_of_the_user() == threads_of_a_replica(8, 2) == 3
    for other in ("2,1", "", "many"):
        monkeypatch.setenv(VARIABLE, other)
        assert threads_of_the_user() == 0
