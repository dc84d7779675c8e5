"""Images arriving at random times: how long each waits, under static and under continuous batching.

Static batching takes whatever waits when it is idle, and takes no more until all of that is done. Times are the wall
clock's; every policy gets the same images at the same times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from benchmarks.decoder_work import AnyDecoder
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.request import DecodeRequest

Server = Callable[[Sequence[DecodeRequest], Sequence[float]], list[float]]


@dataclass(frozen=True)
class Served:
    """images_per_second: from the first arrival to the last picture. p50_s, p95_s: from arrival to picture."""

    images_per_second: float
    p50_s: float
    p95_s: float


def arrivals(
    decoders: dict[str, AnyDecoder],
    requests: Sequence[DecodeRequest],
    args: argparse.Namespace,
    speed: dict[str, dict[str, float]],
) -> dict:
    """The same images at the same times, for each decoder under each policy that it has.

    Their rate is a share of the first decoder's best.
    """
    rate = args.load * max(next(iter(speed.values())).values())
    moments = poisson_arrivals(len(requests), rate, seed=1)
    policies: dict[str, Server] = {}
    for name, decoder in decoders.items():
        if isinstance(decoder, (Decoder, DecoderEngine)):
            policies[f"{name}, static"] = static(decoder.decode, max(args.batches))
        if isinstance(decoder, DecoderEngine):
            policies[f"{name}, continuous"] = continuous(decoder)
    served = {name: asdict(serve(server, requests, moments)) for name, server in policies.items()}
    return {"images": len(requests), "rate": rate, "policies": served}


def poisson_arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Seconds at which images arrive, `rate` a second on average; the first one at 0."""
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.empty(count).exponential_(rate, generator=generator)
    return (gaps.cumsum(0) - gaps[0]).tolist()


def serve(server: Server, requests: Sequence[DecodeRequest], arrivals: Sequence[float]) -> Served:
    """Run one policy."""
    finished = server(requests, arrivals)
    waits = np.array(finished) - np.array(arrivals)
    return Served(len(requests) / max(finished), *(float(np.percentile(waits, q)) for q in (50, 95)))


def static(decode: Callable[[Sequence[DecodeRequest]], object], max_batch: int) -> Server:
    """Batches of what waits, one after the other."""

    def server(requests: Sequence[DecodeRequest], arrivals: Sequence[float]) -> list[float]:
        start, finished = time.perf_counter(), []
        while len(finished) < len(requests):
            _wait_until(start + arrivals[len(finished)])
            now, first = time.perf_counter() - start, len(finished)
            last = first + 1
            while last < min(len(requests), first + max_batch) and arrivals[last] <= now:
                last += 1
            decode(requests[first:last])
            finished += [time.perf_counter() - start] * (last - first)
        return finished

    return server


def continuous(engine: DecoderEngine) -> Server:
    """Images join between rounds."""

    def server(requests: Sequence[DecodeRequest], arrivals: Sequence[float]) -> list[float]:
        start, added = time.perf_counter(), 0
        finished: dict[str, float] = {}
        while len(finished) < len(requests):
            if not engine.busy:
                _wait_until(start + arrivals[added])
            while added < len(requests) and arrivals[added] <= time.perf_counter() - start:
                engine.add(requests[added], f"arrival-{added}")
                added += 1
            for image in engine.step():
                image.on_host.numpy()
                finished[image.request_id] = time.perf_counter() - start
        return [finished[f"arrival-{i}"] for i in range(len(requests))]

    return server


def _wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))
