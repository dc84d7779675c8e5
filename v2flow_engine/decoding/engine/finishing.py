"""DecodeRequests -> finished values as they come: threads encode and save pictures while the engine runs on.

    engine.step -> pictures on their way to the host -> threads wait for them and finish them -> the caller

Knows nothing of formats or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

import numpy as np

from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.pixels import HostPicture
from v2flow_engine.decoding.request import DecodeRequest

Value = TypeVar("Value")
Finish = Callable[[int, np.ndarray], Value]  # (the request's place, its picture (H, W, 3) uint8) -> anything
THREADS = 4  # compressing leaves Python's lock alone


def finish_pictures(
    engine: DecoderEngine | Decoder,
    requests: Sequence[DecodeRequest],
    finish: Finish[Value],
    threads: int = THREADS,
) -> Iterator[tuple[int, Value]]:
    """Decode, and finish each picture in a thread.

    Args:
        engine: idle; nobody else may use it until the last value has come, or the iterator is closed. A plain decoder
            has all pictures ready before the first is finished.
        finish: called in one of `threads` threads. Neither the engine nor the device waits for it: pictures that are
            not finished yet wait in memory.

    Yields:
        (place, value), each as soon as it is there.

    Raises:
        RequestError: before any work, as in `DecoderEngine.decode`. Whatever `finish` raises; the other pictures are
            cancelled then.
    """
    if isinstance(engine, Decoder):
        return _finish_all(engine.decode(requests), finish, threads)
    places = {request_id: place for place, request_id in enumerate(engine.add_all(requests))}
    return _finish(engine, places, finish, threads)


def _finish_all(
    pictures: Sequence[np.ndarray], finish: Finish[Value], threads: int
) -> Iterator[tuple[int, Value]]:
    with ThreadPoolExecutor(threads, "v2flow-finish") as pool:
        yield from enumerate(pool.map(finish, range(len(pictures)), pictures))


def _finish(
    engine: DecoderEngine, places: dict[str, int], finish: Finish[Value], threads: int
) -> Iterator[tuple[int, Value]]:
    def work(place: int, picture: HostPicture) -> tuple[int, Value]:
        return place, finish(place, picture.numpy())

    pending: set[Future[tuple[int, Value]]] = set()
    with ThreadPoolExecutor(threads, "v2flow-finish") as pool, engine.cancelling():
        while engine.busy:
            pending |= {pool.submit(work, places[i.request_id], i.on_host) for i in engine.step()}
            done = {future for future in pending if future.done()}
            pending -= done
            yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(pending))
