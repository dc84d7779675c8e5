"""How long does Ray Serve take for a request that computes nothing? Milliseconds, one request at a time.

    python benchmarks/bench_serve_floor.py --requests 60

An app of the shape of `v2flow serve`: an ingress behind Serve's proxy, asked for JSON ("ingress"), or for a stream for
which it asks one deployment for tokens and another for two pictures of 128x128, one after the other ("stages"). What a
request of `v2flow serve` takes beside its stages can't be less. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import machine, printed
from v2flow_engine.offline.cluster import ray_cluster

APP_NAME = "v2flow-floor"
PICTURE_BYTES = 20_000  # of a PNG in base64
WARM_UP, PAUSE_SECONDS = 30, 0.15


class Tokens:
    """64 tokens at once."""

    async def write(self, prompt: str) -> list[int]:
        return list(range(64))


class Decoder:
    """A partial picture, and the picture."""

    async def decode(self, tokens: list[int]) -> AsyncIterator[Any]:
        import numpy as np

        for _ in range(2):
            yield np.zeros((128, 128, 3), np.uint8)


def application() -> Any:
    """The three deployments, bound."""
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse, StreamingResponse
    from ray import serve

    app, event = FastAPI(), "data: " + "x" * PICTURE_BYTES + "\n\n"

    class Ingress:
        def __init__(self, tokens: Any, decoder: Any) -> None:
            self.tokens, self.decoder = tokens, decoder.options(stream=True)

        @app.get("/ingress")
        async def ingress(self) -> JSONResponse:
            return JSONResponse({"picture": "x" * PICTURE_BYTES})

        @app.get("/stages")
        async def stages(self) -> StreamingResponse:
            async def body() -> AsyncIterator[str]:
                tokens = await self.tokens.write.remote("a red apple")
                async for _ in self.decoder.decode.remote(tokens):
                    yield event

            return StreamingResponse(body(), media_type="text/event-stream")

    deployment = serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
    return deployment(serve.ingress(app)(Ingress)).bind(deployment(Tokens).bind(), deployment(Decoder).bind())


def milliseconds(url: str, requests: int) -> list[float]:
    """Of requests, one after the other, with pauses, in which Serve's own work is done."""
    import httpx

    took = []
    with httpx.Client(timeout=60) as client:
        for number in range(WARM_UP + requests):
            started = time.perf_counter()
            client.get(url).raise_for_status()
            if number >= WARM_UP:
                took.append(1000 * (time.perf_counter() - started))
            time.sleep(PAUSE_SECONDS)
    return took


def measured(requests: int, port: int) -> dict[str, Any]:
    """Start the app on a cluster as `v2flow serve` starts one, and ask it."""
    from ray import serve

    with ray_cluster():
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(application(), name=APP_NAME)
            took = {
                kind: milliseconds(f"http://127.0.0.1:{port}/{kind}", requests)
                for kind in ("ingress", "stages")
            }
        finally:
            serve.delete(APP_NAME)  # on somebody else's cluster there may be others
    found = {
        kind: {"median": statistics.median(each), "mean": statistics.fmean(each)}
        for kind, each in took.items()
    }
    return {"machine": machine("cpu"), "requests": requests, "milliseconds": found}


def table(report: dict[str, Any]) -> str:
    """A line for each kind of request."""
    lines = [f"{'':8} {'median':>8} {'mean':>8}  ms"]
    for kind, found in report["milliseconds"].items():
        lines.append(f"{kind:8} {found['median']:8.1f} {found['mean']:8.1f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Start, measure, print, end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=60, help="of each kind (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8799, help="on 127.0.0.1 (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.requests < 1:
        parser.error(f"--requests must be at least 1, got {args.requests}")
    report = printed("bench_serve_floor", lambda: measured(args.requests, args.port), table)
    return 0 if report else 2


if __name__ == "__main__":
    raise SystemExit(main())
