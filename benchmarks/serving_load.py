"""Clients of the endpoint: one request as a stream, many at once, in a closed loop or arriving at random; a summary.

Knows HTTP and nothing of the server's inside.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

GENERATIONS = "/v1/images/generations"
TIMEOUT = 600.0
MAX_TRIES = 20


@dataclass(frozen=True)
class Outcome:
    """Of one request. seconds from when it was sent: to the first partial picture, and to the finished one.

    status: of HTTP; 0 for one whose caller left, as it was told to. error: what came in place of a picture.
    """

    status: int
    first: float | None = None
    done: float | None = None
    error: str = ""

    @property
    def answered(self) -> bool:
        """Whether a picture came."""
        return self.done is not None


@dataclass(frozen=True)
class Load:
    """What clients ask for. prompts: taken in turn. partials: partial pictures of each request.

    leaving: the share of callers who leave before the end; patience: how long these wait at most, in seconds.
    """

    prompts: Sequence[str]
    partials: int = 1
    leaving: float = 0.0
    patience: float = 1.0
    seed: int = 0


async def closed_loop(url: str, load: Load, clients: int, requests: int) -> tuple[list[Outcome], float]:
    """Each client sends its next request when the last one is answered; outcomes, and seconds for all."""
    numbers = iter(range(requests))
    outcomes: list[Outcome] = []
    async with _client(url) as http:

        async def work() -> None:
            for number in numbers:
                outcomes.append(await _one(http, load, number))

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(clients)))
        return outcomes, time.perf_counter() - start


async def open_loop(url: str, load: Load, rate: float, requests: int) -> tuple[list[Outcome], float]:
    """Requests arrive as a Poisson process of `rate` a second, whatever the server does; as `closed_loop`."""
    generator = random.Random(load.seed)
    async with _client(url) as http:
        start = time.perf_counter()
        tasks, due = [], 0.0
        for number in range(requests):
            due += generator.expovariate(rate)
            await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
            tasks.append(asyncio.create_task(_one(http, load, number)))
        return list(await asyncio.gather(*tasks)), time.perf_counter() - start


def told(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Throughput, goodput and percentiles."""
    answered = [each for each in outcomes if each.answered]
    return {
        "images_per_second": len(answered) / seconds,
        "requests": len(outcomes),
        "answered": len(answered),
        "first_partial": percentiles([each.first for each in answered if each.first is not None]),
        "image": percentiles([each.done for each in answered if each.done is not None]),
    }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95, p99; None for nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        f"p{p}": ordered[min(len(ordered) - 1, round(p / 100 * (len(ordered) - 1)))] for p in (50, 95, 99)
    }


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits)


async def _one(http: httpx.AsyncClient, load: Load, number: int) -> Outcome:
    """A request, sent again when the server says 429, as OpenAI's clients do."""
    generator = random.Random(f"{load.seed}/{number}")
    leaves = generator.random() < load.leaving
    body = {"prompt": load.prompts[number % len(load.prompts)], "seed": number}
    body |= {"stream": True, "partial_images": load.partials}
    start = time.perf_counter()
    try:
        async with asyncio.timeout(generator.uniform(0, load.patience) if leaves else None):
            for _ in range(MAX_TRIES):
                outcome, wait = await _send(http, body, start)
                if wait is None:
                    return outcome
                await asyncio.sleep(wait)
            return outcome
    except TimeoutError:
        return Outcome(0)
    except httpx.HTTPError as error:
        return Outcome(-1, error=f"{type(error).__name__}: {error}")


async def _send(http: httpx.AsyncClient, body: dict, start: float) -> tuple[Outcome, float | None]:
    """The outcome, and how long to wait before the next try, if there is to be one."""
    first = None
    async with http.stream("POST", GENERATIONS, json=body) as answer:
        if answer.status_code != 200:
            text = (await answer.aread()).decode(errors="replace")
            wait = float(answer.headers.get("retry-after", 1)) if answer.status_code == 429 else None
            return Outcome(answer.status_code, error=text[:200]), wait
        async for line in answer.aiter_lines():
            if not line.startswith("data:"):
                continue
            event = json.loads(line.removeprefix("data:"))
            now = time.perf_counter() - start
            if event.get("error"):
                return Outcome(200, first, error=str(event["error"])[:200]), None
            if event["type"].endswith(".partial_image"):
                first = now if first is None else first
            elif event["type"].endswith(".completed"):
                return Outcome(200, first, now), None
    return Outcome(200, first, error="the stream ended without a picture"), None
