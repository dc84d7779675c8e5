"""Spans of requests and stages -> an OpenTelemetry collector, over OTLP/HTTP, across processes by W3C's traceparent.

Where no collector is named nothing of OpenTelemetry is imported, and a span is an empty block.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import ReleaseError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

FLUSH_MILLISECONDS = 3000
TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
URL_VARIABLE, BASE_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"


def traces_url(base: str | None) -> str | None:
    """Where spans go: below a collector's address, or what OpenTelemetry's own variables say; None for nowhere."""
    if base is None and URL_VARIABLE in os.environ:
        return os.environ[URL_VARIABLE] or None
    base = base or os.environ.get(BASE_VARIABLE)
    return f"{base.rstrip('/')}/v1/traces" if base else None


@lru_cache
def tracing_to(url: str | None) -> Tracing:
    """The one of this process. Raises `ReleaseError` if OpenTelemetry is wanted and not installed."""
    return Tracing(url)


class Tracing:
    """Makes spans, and sends them in the background.

    Args:
        url: of the collector's traces, None for none at all.
    """

    def __init__(self, url: str | None) -> None:
        self.on = url is not None
        if not self.on:
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise ReleaseError(
                f'traces need OpenTelemetry: pip install "v2flow_engine[trace]" ({error})'
            ) from error
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "v2flow"}
        self._provider = TracerProvider(resource=Resource.create({**named, "process.pid": os.getpid()}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("v2flow_engine")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str], **attributes: Any) -> Iterator[Span | None]:
        """A span that those of the block, and of tasks begun in it, are below; itself below what the headers name."""
        if not self.on:
            yield None
            return
        from opentelemetry.trace import SpanKind

        given = {key: headers[key] for key in (TRACEPARENT, TRACESTATE) if key in headers}
        with self._tracer.start_as_current_span(
            name,
            context=self._propagator.extract(given) if given else None,
            kind=SpanKind.SERVER,
            attributes=_named(attributes),
        ) as span:
            yield span

    @contextmanager
    def stage(self, name: str, trace: str | None = None, **attributes: Any) -> Iterator[str | None]:
        """A span of work that may be left by another task than began it, such as a generator's.

        trace: the traceparent that it is below, None for the span of this task. Yields its own traceparent.
        """
        if not self.on:
            yield None
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        below = None if trace is None else self._propagator.extract({TRACEPARENT: trace})
        kind = SpanKind.CLIENT if trace is None else SpanKind.SERVER
        span = self._tracer.start_span(name, context=below, kind=kind, attributes=_named(attributes))
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        try:
            yield carrier.get(TRACEPARENT)
        except (GeneratorExit, asyncio.CancelledError):
            span.set_attribute("v2flow.cancelled", True)
            raise
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            span.end()

    def flush(self) -> None:
        """Send what has ended; waits a few seconds at most."""
        if self.on:
            self._provider.force_flush(FLUSH_MILLISECONDS)


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"v2flow.{name}": value for name, value in attributes.items() if value is not None}
