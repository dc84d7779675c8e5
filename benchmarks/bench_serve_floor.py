"""How long does Ray Serve take for a request that computes nothing? Milliseconds, one request at a time.

    python benchmarks/bench_serve_floor.py --requests 60

An app of the shape of `v2flow serve`: an ingress behind Serve's proxy, asked for JSON ("ingress"), or for a stream for
which it asks one deployment for tokens and another for two pictures of 128x128, one after the other ("stages"). What a
request of `v2flow serve` takes beside its stages can't be less. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

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

    deployment = serve.deployment(max_ongoing_requests=64)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Start, measure, print, end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=60, help="of each kind (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8799, help="on 127.0.0.1 (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.requests < 1:
        parser.error(f"--requests must be at least 1, got {args.requests}")
    import ray
    from ray import serve

    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": args.port})
        serve.run(application())
        found = {}
        for kind in ("ingress", "stages"):
            took = milliseconds(f"http://127.0.0.1:{args.port}/{kind}", args.requests)
            found[kind] = {"median": statistics.median(took), "mean": statistics.fmean(took)}
            print(f"{kind:8} {found[kind]['median']:6.1f} ms median {found[kind]['mean']:6.1f} ms mean")
        serve.shutdown()
    finally:
        ray.shutdown()
    print(json.dumps({"requests": args.requests, "ray": ray.__version__, "milliseconds": found}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
