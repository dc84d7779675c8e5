"""Requests and the engines' counters -> Prometheus text at `/metrics`. One registry for each app.

Stages are read when somebody asks; requests are counted as they end, by a plain ASGI middleware.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import accumulate, product
from operator import itemgetter
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from v2flow_engine.errors import EngineDeadError
from v2flow_engine.histogram import SECONDS
from v2flow_engine.serving.backend import Stats
from v2flow_engine.serving.errors import BROKEN
from v2flow_engine.serving.observed import TimeInStages, in_stages

STREAMS = ("/v1/images/generations", "/v1/images/edits", "/v1/chat/completions")
LEFT = "499"  # the caller was gone before there was an answer
STAGE_COUNTERS = {
    "finished": "Requests that a stage finished",
    "failed": "Requests that a stage refused or lost",
    "cancelled": "Requests that were taken out of a stage because nobody waited any more",
    "steps": "Steps of a stage's engine",
    "deaths": "Engines of a stage that broke",
}
STAGE_HISTOGRAMS = {
    "queue_seconds": "What a request waited in a stage before its first step",
    "compute_seconds": "From a request's first step in a stage to its end",
    "batch_sizes": "Requests that took part in a step",
}
STAGE, REPLICA = "stage", "replica"

router = APIRouter(include_in_schema=False)


class Metrics:
    """What one app counts.

    All names begin with `v2flow_`, all that an ingress counts has its replica as a label.

    Args:
        replica: of the ingress.
    """

    def __init__(self, replica: str = "0") -> None:
        self.replica = replica
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter(
            "v2flow_requests", "Requests that ended", ["route", "method", "status"], **own
        )
        self.broken = Counter(
            "v2flow_broken_answers",
            "Answers that began well and ended in an error",
            ["route", "status"],
            **own,
        )
        self.seconds = Histogram(
            "v2flow_request_seconds", "From a request's head to the end of its answer", ["route"],
            buckets=SECONDS, **own,
        )  # fmt: skip
        self.outside_seconds = Histogram(
            "v2flow_request_outside_seconds",
            "Of requests that made pictures, the time in which none of their pictures was in a stage", ["route"],
            buckets=SECONDS, **own,
        )  # fmt: skip
        self.under_way = Gauge("v2flow_requests_under_way", "Requests that have not ended", **own)
        self.stage_seconds = Histogram(
            "v2flow_ask_seconds", "Of one picture, from asking a stage to its answer", [STAGE],
            buckets=SECONDS, **own,
        )  # fmt: skip
        self.file_seconds = Histogram(
            "v2flow_file_seconds", "Making a picture's file", ["format"], buckets=SECONDS, **own
        )
        self.pictures = Gauge("v2flow_pictures_under_way", "Pictures, by who asked", ["of"], **own)
        self.batch_lines = Counter("v2flow_batch_lines", "Answered lines of batches", ["status"], **own)
        # Series from the beginning, so that the first one of each is an increase.
        self.batch_lines.labels("200")
        for route, status in product(STREAMS, ("500", "503", "504")):
            self.broken.labels(route, status)

    def text(self, stats: Stats | None) -> bytes:
        """Everything as Prometheus reads it. stats: of the backend; None where a stage does not answer."""
        shown = CollectorRegistry()
        shown.register(_Labelled(self.registry, self.replica))
        shown.register(_Stages(stats))
        return generate_latest(shown)


class _Labelled:
    """A registry's metrics with one more label, the ingress replica; see `Collector` of prometheus_client."""

    def __init__(self, registry: CollectorRegistry, replica: str) -> None:
        self._registry, self._replica = registry, replica

    def collect(self) -> Iterator[Metric]:
        """The same families."""
        for family in self._registry.collect():
            own = Metric(family.name, family.documentation, family.type)
            own.samples = [
                sample._replace(labels={**sample.labels, "ingress": self._replica})
                for sample in family.samples
            ]
            yield own


class _Stages:
    """A backend's counters as they were read; see `Collector` of prometheus_client."""

    def __init__(self, stats: Stats | None) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """One family for each counter, labelled by stage and replica."""
        ready = GaugeMetricFamily("v2flow_stages_up", "Whether both stages answer")
        ready.add_metric([], float(self._stats is not None))
        yield ready
        if self._stats is None:
            return
        yield self._family(
            GaugeMetricFamily,
            "in_flight",
            "Requests in a stage, running and waiting",
            lambda each: each["in_flight"],
        )
        yield self._family(
            GaugeMetricFamily,
            "running",
            "Of these, that have taken part in a step",
            lambda each: each["running"],
        )
        for name, told in STAGE_COUNTERS.items():
            yield self._family(CounterMetricFamily, name, told, itemgetter(name))
        for name, told in STAGE_HISTOGRAMS.items():
            family = HistogramMetricFamily(f"v2flow_stage_{name}", told, labels=[STAGE, REPLICA])
            for stage, replica, counts in self._each():
                family.add_metric([stage, replica], _buckets(counts[name]), counts[name]["total"])
            yield family
        written = CounterMetricFamily(
            "v2flow_visual_tokens", "Visual tokens that the LLM wrote", labels=[REPLICA]
        )
        for stage, replica, counts in self._each():
            if stage == "token":
                written.add_metric([replica], counts["tokens"])
        yield written

    def _family(self, kind: Any, name: str, told: str, value: Callable[[dict[str, Any]], float]) -> Metric:
        family = kind(f"v2flow_stage_{name}", told, labels=[STAGE, REPLICA])
        for stage, replica, counts in self._each():
            family.add_metric([stage, replica], value(counts))
        return family

    def _each(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for stage, replicas in (self._stats or {}).items():
            for replica, counts in replicas.items():
                yield stage, replica, counts


def _buckets(observed: dict[str, Any]) -> list[tuple[str, float]]:
    """Counts of buckets -> those of all values up to each bound, as Prometheus has them."""
    bounds = [*map(str, map(float, observed["bounds"])), "+Inf"]
    return list(zip(bounds, accumulate(observed["counts"]), strict=True))


class CountRequests:
    """Counts every request by the pattern of its route, so that no address of a picture becomes a label."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, stages = time.perf_counter(), LEFT, TimeInStages()
        token = in_stages.set(stages)

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        self.metrics.under_way.inc()
        try:
            await self.app(scope, receive, send_counted)
        finally:
            seconds = time.perf_counter() - begun
            in_stages.reset(token)
            route = getattr(scope.get("route"), "path", None) or "unknown"
            method = scope["method"] if route != "unknown" else "unknown"
            self.metrics.under_way.dec()
            self.metrics.requests.labels(route, method, status).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if (broken := scope.get("state", {}).get(BROKEN)) is not None:
                self.metrics.broken.labels(route, str(broken)).inc()
            if stages.seconds:
                self.metrics.outside_seconds.labels(route).observe(seconds - stages.seconds)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All of it; a stage that does not answer is told, not waited for longer than `Backend.stats` does."""
    state = request.app.state
    try:
        stats = await state.server.backend.stats()
    except EngineDeadError:
        stats = None
    return Response(state.metrics.text(stats), media_type=CONTENT_TYPE_LATEST)
