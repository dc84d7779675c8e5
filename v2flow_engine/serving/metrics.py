"""Requests and the engines' counters -> Prometheus text at `/metrics`. One registry for each app.

Stages are read when somebody asks; requests are counted as they end, by a plain ASGI middleware.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from v2flow_engine.errors import EngineDeadError

SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
LEFT = "499"  # the caller was gone before there was an answer
STAGE_COUNTERS = {
    "finished": "Requests that a stage finished",
    "failed": "Requests that a stage refused or lost",
    "cancelled": "Requests that were taken out of a stage because nobody waited any more",
    "steps": "Steps of a stage's engine",
    "deaths": "Engines of a stage that broke",
}

router = APIRouter(include_in_schema=False)


class Metrics:
    """What one app counts.

    All names begin with `v2flow_`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter(
            "v2flow_requests", "Requests that ended", ["route", "method", "status"], **own
        )
        self.seconds = Histogram(
            "v2flow_request_seconds", "From a request's head to the end of its answer", ["route"],
            buckets=SECONDS, **own,
        )  # fmt: skip
        self.under_way = Gauge("v2flow_requests_under_way", "Requests that have not ended", **own)

    def text(self, stats: dict[str, dict[str, Any]] | None) -> bytes:
        """Everything as Prometheus reads it. stats: of the backend; None where a stage does not answer."""
        stages = CollectorRegistry()
        stages.register(_Stages(stats))
        return generate_latest(self.registry) + generate_latest(stages)


class _Stages:
    """A backend's counters as they were read; see `Collector` of prometheus_client."""

    def __init__(self, stats: dict[str, dict[str, Any]] | None) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """One family for each counter, labelled by stage."""
        ready = GaugeMetricFamily("v2flow_stages_up", "Whether both stages answer")
        ready.add_metric([], float(self._stats is not None))
        yield ready
        if self._stats is None:
            return
        in_flight = GaugeMetricFamily(
            "v2flow_stage_in_flight", "Requests in a stage, running and waiting", labels=["stage"]
        )
        for stage, counts in self._stats.items():
            in_flight.add_metric([stage], counts["in_flight"])
        yield in_flight
        for name, told in STAGE_COUNTERS.items():
            family = CounterMetricFamily(f"v2flow_stage_{name}", told, labels=["stage"])
            for stage, counts in self._stats.items():
                family.add_metric([stage], counts[name])
            yield family


class CountRequests:
    """Counts every request by the pattern of its route, so that no address of a picture becomes a label."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), LEFT

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        self.metrics.under_way.inc()
        try:
            await self.app(scope, receive, send_counted)
        finally:
            route = getattr(scope.get("route"), "path", None) or "unknown"
            method = scope["method"] if route != "unknown" else "unknown"
            self.metrics.under_way.dec()
            self.metrics.requests.labels(route, method, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - begun)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All of it; a stage that does not answer is told, not waited for longer than `Backend.stats` does."""
    state = request.app.state
    try:
        stats = await state.server.backend.stats()
    except EngineDeadError:
        stats = None
    return Response(state.metrics.text(stats), media_type=CONTENT_TYPE_LATEST)
