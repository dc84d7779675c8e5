"""TokenWorker: many callers at once, cancellation, a refused request beside good ones, a full queue, death, close."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future

import pytest

from tests.engine_common import one_thread, request_for
from tests.generation.test_token_generator_lifecycle import break_model
from tests.tiny_model import build_tiny_model
from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.errors import EngineDeadError, QueueFullError, RequestError
from v2flow_engine.generation.token_generator import TokenGenerator
from v2flow_engine.generation.token_worker import TokenWorker

pytest.importorskip("vllm")
WAIT = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_model(build_tiny_model(tmp_path_factory.mktemp("token-worker") / "model"))


@pytest.fixture(scope="module")
def worker(folder: ModelFolder) -> Iterator[TokenWorker]:
    def start() -> TokenGenerator:
        return TokenGenerator(folder, max_num_seqs=4, kv_cache_gib=1 / 64)

    with one_thread():
        worker = TokenWorker(start, max_in_flight=8)
        yield worker
        worker.close()


@pytest.fixture
def held(worker: TokenWorker) -> Iterator[Callable[[], None]]:
    """Keep the worker's thread between two steps until the returned function is called."""
    free, reached = threading.Event(), threading.Event()

    def hold(_: TokenGenerator) -> None:
        reached.set()
        free.wait(WAIT)

    worker.call(hold)
    assert reached.wait(WAIT)
    yield free.set
    free.set()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_callers_of_many_threads_get_what_each_would_get_alone(
    folder: ModelFolder, worker: TokenWorker
) -> None:
    alone = [worker.submit(request_for(folder, i)).result(WAIT) for i in range(6)]
    together: dict[int, list[int]] = {}

    def caller(index: int) -> None:
        together[index] = worker.submit(request_for(folder, index)).result(WAIT)

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert [together[i] for i in range(6)] == alone
    assert len({tuple(ids) for ids in alone}) == 6


def test_a_full_queue_refuses_and_a_cancelled_request_makes_room(
    folder: ModelFolder, worker: TokenWorker, held: Callable[[], None]
) -> None:
    futures = [worker.submit(request_for(folder, i)) for i in range(8)]
    with pytest.raises(QueueFullError, match="8 requests") as refused:
        worker.submit(request_for(folder, 8))
    assert 1 <= refused.value.retry_after <= 60
    assert futures[3].cancel()
    late = worker.submit(request_for(folder, 8))
    held()
    written = [future.result(WAIT) for i, future in enumerate(futures) if i != 3]
    assert all(len(ids) == 16 for ids in [*written, late.result(WAIT)])
    with pytest.raises(CancelledError):
        futures[3].result(0)


def test_cancelling_under_way_leaves_nothing_in_the_engine(folder: ModelFolder, worker: TokenWorker) -> None:
    first_seen = worker.stats.steps
    long = request_for(folder, 0, num_visual_tokens=90)
    future = worker.submit(long)
    until(lambda: worker.stats.steps >= first_seen + 2)
    assert future.cancel()
    until(lambda: not worker.call(lambda engine: engine.busy).result(WAIT))
    assert not worker.call(lambda engine: engine._engine.has_unfinished_requests()).result(WAIT)
    assert worker.stats.steps < first_seen + 90
    assert len(worker.submit(request_for(folder, 1)).result(WAIT)) == 16


def test_what_was_cancelled_is_not_running_any_more(folder: ModelFolder, worker: TokenWorker) -> None:
    futures = [worker.submit(request_for(folder, i, num_visual_tokens=90)) for i in range(6)]
    until(lambda: worker.stats.running == 4)  # have a place; the others wait for one
    free, held = threading.Event(), threading.Event()
    worker.call(lambda _: (held.set(), free.wait(WAIT)))  # no step will correct the number
    assert held.wait(WAIT)
    assert (worker.stats.in_flight, worker.stats.running) == (6, 4)
    assert futures[0].cancel()
    assert (worker.stats.in_flight, worker.stats.running) == (5, 3)
    assert all(future.cancel() for future in futures[1:])
    assert (worker.stats.in_flight, worker.stats.running) == (0, 0)
    free.set()
    until(lambda: not worker.call(lambda engine: engine.busy).result(WAIT))
    assert worker.stats.running == 0


def test_a_request_that_is_refused_leaves_others_alone(folder: ModelFolder, worker: TokenWorker) -> None:
    good = worker.submit(request_for(folder, 0))
    bad = worker.submit(request_for(folder, 0, temperature=float("nan")))
    with pytest.raises(RequestError, match="temperature") as refused:
        bad.result(WAIT)
    assert refused.value.param == "temperature"
    assert len(good.result(WAIT)) == 16


def test_asyncio_awaits_and_cancels(folder: ModelFolder, worker: TokenWorker) -> None:
    async def scenario() -> list[int]:
        doomed = asyncio.ensure_future(asyncio.wrap_future(worker.submit(request_for(folder, 1))))
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        return await asyncio.wrap_future(worker.submit(request_for(folder, 0)))

    assert len(asyncio.run(scenario())) == 16
    until(lambda: worker.stats.in_flight == 0)


def test_death_is_told_to_all_who_wait_and_another_engine_starts(
    folder: ModelFolder, worker: TokenWorker, held: Callable[[], None]
) -> None:
    before = worker.stats.deaths
    breaking: Future[None] = worker.call(break_model)
    futures = [worker.submit(request_for(folder, i)) for i in range(3)]
    held()
    breaking.result(WAIT)
    for future in futures:
        with pytest.raises(EngineDeadError, match="made to fail"):
            future.result(WAIT)
    assert len(worker.submit(request_for(folder, 0)).result(WAIT)) == 16
    assert worker.stats.deaths == before + 1


def test_close_can_finish_what_is_under_way(folder: ModelFolder, worker: TokenWorker) -> None:
    futures = [worker.submit(request_for(folder, i)) for i in range(4)]
    worker.close(drain=True)
    assert all(len(future.result(0)) == 16 for future in futures)
    with pytest.raises(EngineDeadError, match="closed"):
        worker.submit(request_for(folder, 0))
