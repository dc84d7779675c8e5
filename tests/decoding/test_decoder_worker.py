"""DecoderWorker: pictures as the engine makes them, previews of real rounds, cancellation, refusals, death, close."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_model import build_tiny_model
from v2flow_engine.checkpoint import TokenizerFolder, open_tokenizer
from v2flow_engine.decoding.decoder_worker import DecoderWorker
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.preview_rounds import preview_rounds
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.errors import EngineDeadError, QueueFullError, RequestError

WAIT = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFolder:
    return open_tokenizer(build_tiny_model(tmp_path_factory.mktemp("decoder-worker") / "model"))


@pytest.fixture
def worker(folder: TokenizerFolder) -> Iterator[DecoderWorker]:
    worker = DecoderWorker(lambda: DecoderEngine.from_folder(folder), max_in_flight=8)
    yield worker
    worker.close()


def request(seed: int, **changes: int) -> DecodeRequest:
    codes = torch.randint(64, (16,), generator=torch.Generator().manual_seed(seed))
    return DecodeRequest(codes, seed, "64x64", **({"rounds": 4, "flow_steps": 3} | changes))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("rounds", "count", "expected"),
    [(4, 3, [1, 2, 3]), (4, 1, [2]), (8, 3, [2, 4, 6]), (2, 3, [1]), (1, 3, []), (5, 0, [])],
)
def test_previews_are_spread_over_the_rounds(rounds: int, count: int, expected: list[int]) -> None:
    assert preview_rounds(rounds, count) == expected


def test_callers_get_the_engines_own_pictures(folder: TokenizerFolder, worker: DecoderWorker) -> None:
    alone = DecoderEngine.from_folder(folder)
    expected = [alone.decode([request(seed)])[0] for seed in range(6)]
    made: dict[int, np.ndarray] = {}

    def caller(seed: int) -> None:
        made[seed] = worker.decode(request(seed)).result(WAIT)

    threads = [threading.Thread(target=caller, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    for seed in range(6):
        assert np.abs(made[seed].astype(int) - expected[seed]).max() <= 1  # batched sums round otherwise


def test_previews_come_in_order_and_change_nothing(worker: DecoderWorker) -> None:
    shown: list[tuple[int, np.ndarray]] = []
    plain = worker.decode(request(1)).result(WAIT)
    picture = worker.decode(request(1), [1, 2, 3], lambda r, p: shown.append((r, p))).result(WAIT)
    assert [rounds for rounds, _ in shown] == [1, 2, 3]
    assert all(preview.shape == (64, 64, 3) for _, preview in shown)
    assert np.abs(plain.astype(int) - picture).max() <= 1  # it may have shared a batch with a preview
    distances = [np.abs(preview.astype(float) - picture).mean() for _, preview in shown]
    assert distances[0] > distances[2] > 0  # what is known of the picture grows


def test_a_preview_whose_caller_fails_stops_nobody(worker: DecoderWorker) -> None:
    def fail(rounds: int, picture: np.ndarray) -> None:
        raise RuntimeError("the caller has left")

    assert worker.decode(request(1), [1], fail).result(WAIT).shape == (64, 64, 3)
    assert worker.stats.deaths == 0


def test_cancelling_frees_places_waiting_or_under_way(worker: DecoderWorker) -> None:
    first, free, seen = threading.Event(), threading.Event(), threading.Event()

    def hold(engine: DecoderEngine) -> None:
        engine.step_latents()
        seen.set()
        free.wait(WAIT)

    worker.call(lambda engine: first.wait(WAIT))
    under_way = worker.decode(request(0, rounds=16))
    worker.call(hold)
    first.set()
    assert seen.wait(WAIT)
    waiting = [worker.decode(request(seed)) for seed in range(1, 8)]
    with pytest.raises(QueueFullError):
        worker.decode(request(9))
    assert under_way.cancel() and waiting[0].cancel()
    steps = worker.stats.steps
    free.set()
    assert all(future.result(WAIT).any() for future in waiting[1:])
    until(lambda: not worker.call(lambda engine: engine.busy).result(WAIT))
    assert worker.stats.steps - steps < 15  # what was cancelled had that many rounds left
    assert (worker.stats.cancelled, worker.stats.finished, worker.stats.in_flight) == (2, 6, 0)


def hold_pixels(worker: DecoderWorker, decoded: list[int] | None = None) -> threading.Event:
    """Pictures wait for the event before the autoencoder makes them; how many it makes is noted."""
    free = threading.Event()

    def change(engine: DecoderEngine) -> None:
        decode = engine.autoencoder.decode

        def held(latents: torch.Tensor) -> torch.Tensor:
            assert free.wait(WAIT)
            if decoded is not None:
                decoded.append(len(latents))
            return decode(latents)

        engine.autoencoder.decode = held

    worker.call(change).result(WAIT)
    return free


def test_rounds_go_on_while_pixels_are_made(worker: DecoderWorker) -> None:
    free, shown = hold_pixels(worker), []
    futures = [worker.decode(request(0), [2], lambda r, _: shown.append(r))]
    until(lambda: worker.stats.steps == 4)  # past the preview's round, to the picture's end
    futures.append(worker.decode(request(1)))
    until(lambda: worker.stats.steps == 8)
    assert not shown and not any(future.done() for future in futures)
    assert worker.stats.in_flight == 2
    free.set()
    assert all(future.result(WAIT).any() for future in futures)
    assert shown == [2]


def test_a_picture_whose_caller_leaves_before_its_pixels_is_not_painted(worker: DecoderWorker) -> None:
    decoded: list[int] = []
    free = hold_pixels(worker, decoded)
    kept, left = worker.decode(request(0)), worker.decode(request(1, rounds=8))
    until(lambda: worker.stats.steps >= 8 and not worker.call(lambda engine: engine.busy).result(WAIT))
    assert left.cancel()
    free.set()
    assert kept.result(WAIT).any()
    assert (worker.stats.cancelled, worker.stats.finished) == (1, 1)
    assert worker.decode(request(2)).result(WAIT).any()
    assert decoded == [1, 1]


def test_draining_waits_for_pixels(folder: TokenizerFolder) -> None:
    worker = DecoderWorker(lambda: DecoderEngine.from_folder(folder))
    free, future = hold_pixels(worker), worker.decode(request(0))
    until(lambda: worker.stats.steps == 4)
    closing = threading.Thread(target=worker.close, kwargs={"drain": True})
    closing.start()
    time.sleep(0.1)
    assert closing.is_alive() and not future.done()
    free.set()
    assert future.result(WAIT).any()
    closing.join(WAIT)
    assert not closing.is_alive()


def test_a_request_that_is_refused_leaves_others_alone(worker: DecoderWorker) -> None:
    good, bad = worker.decode(request(0)), worker.decode(request(1, rounds=17))
    with pytest.raises(RequestError, match="rounds"):
        bad.result(WAIT)
    assert good.result(WAIT).any()


def test_death_is_told_and_another_engine_starts_until_nothing_helps(folder: TokenizerFolder) -> None:
    broken = [True, False, True, True, True]

    def start() -> DecoderEngine:
        engine = DecoderEngine.from_folder(folder)
        if broken.pop(0):
            engine.autoencoder.decode = None  # fails with the first picture that is finished
        return engine

    told: list[BaseException] = []
    worker = DecoderWorker(start, on_death=told.append)
    with pytest.raises(EngineDeadError, match="decoder engine broke"):
        worker.decode(request(0)).result(WAIT)
    assert worker.decode(request(0)).result(WAIT).any()
    worker.call(lambda engine: setattr(engine.autoencoder, "decode", None)).result(WAIT)
    for deaths in (2, 3, 4):  # engine 2 had finished something; 3 and 4 have not
        with pytest.raises(EngineDeadError, match="NoneType"):
            worker.decode(request(0)).result(WAIT)
        assert worker.stats.deaths == len(told) == deaths
    until(lambda: worker.over)
    with pytest.raises(EngineDeadError, match="in a row"):
        worker.decode(request(0))
    worker.close()


def test_what_ends_leaves_no_memory_behind(folder: TokenizerFolder) -> None:
    """Neither a finished request nor a dead engine waits for the collection of garbage."""
    engines: list[weakref.ref[DecoderEngine]] = []

    def start() -> DecoderEngine:
        engine = DecoderEngine.from_folder(folder)
        engines.append(weakref.ref(engine))
        return engine

    worker = DecoderWorker(start)
    gc.collect()
    gc.disable()
    try:
        picture = worker.decode(request(0), [1], lambda *_: None).result(WAIT)
        gone = weakref.ref(picture)
        del picture
        until(lambda: gone() is None)
        worker.call(lambda engine: setattr(engine.autoencoder, "decode", None)).result(WAIT)
        with pytest.raises(EngineDeadError):
            worker.decode(request(0)).result(WAIT)
        assert worker.decode(request(1)).result(WAIT).any()
        assert [engine() is None for engine in engines] == [True, False]
    finally:
        gc.enable()
        worker.close()


def test_pixels_that_fail_while_draining_are_told(folder: TokenizerFolder) -> None:
    worker = DecoderWorker(lambda: DecoderEngine.from_folder(folder))
    worker.call(lambda engine: setattr(engine.autoencoder, "decode", None)).result(WAIT)
    futures = [worker.decode(request(seed)) for seed in range(3)]
    worker.close(drain=True)
    for future in futures:
        with pytest.raises(EngineDeadError):
            future.result(WAIT)


def test_closing_without_draining_says_so(folder: TokenizerFolder) -> None:
    worker = DecoderWorker(lambda: DecoderEngine.from_folder(folder))
    futures = [worker.decode(request(seed, rounds=16)) for seed in range(4)]
    worker.close()
    for future in futures:
        with pytest.raises(EngineDeadError, match="closed"):
            future.result(0)


def test_an_engine_that_does_not_start_refuses_everything(tmp_path: Path) -> None:
    def start() -> DecoderEngine:
        raise OSError("no such device")

    worker = DecoderWorker(start)
    until(lambda: worker.over)
    with pytest.raises(EngineDeadError, match="no such device"):
        worker.decode(request(0))
    worker.close()


def test_several_threads_may_load_at_once(folder: TokenizerFolder) -> None:
    """Diffusers' loader can change what other threads' modules are made of."""
    loaded: list[DecoderEngine] = []

    def load() -> None:
        loaded.append(DecoderEngine.from_folder(folder))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert len(loaded) == 4
    assert len({engine.decode([request(1)])[0].tobytes() for engine in loaded}) == 1
