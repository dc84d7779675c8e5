"""A request to end is heard wherever it comes."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from v2flow_engine.offline.interrupts import listening


class InterruptedWhenDropped:
    """Gets a signal in its destructor, where Python drops what is raised."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(1000):  # the handler runs between two steps of this thread
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_was_swallowed_is_raised_again(number: int) -> None:
    before = signal.getsignal(number)
    with listening() as interrupts:
        interrupts.check()
        InterruptedWhenDropped(number)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(number) is before


def test_one_that_is_not_swallowed_is_raised_where_it_comes() -> None:
    with listening(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_in_another_thread_signals_stay_as_they_are() -> None:
    before, during = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with listening():
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == [before]
