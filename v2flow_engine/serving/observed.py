"""A backend -> the same, each call to a stage timed and traced as the ingress sees it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np

from v2flow_engine.serving.backend import Drawn, EncodedPicture

if TYPE_CHECKING:
    from v2flow_engine.decoding.request import DecodeRequest
    from v2flow_engine.generation.request import TokenRequest
    from v2flow_engine.serving.backend import Backend
    from v2flow_engine.serving.metrics import Metrics
    from v2flow_engine.serving.tracing import Tracing


class TimeInStages:
    """Of one request: the seconds in which at least one of its pictures was in a stage."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._pictures, self._since = 0, 0.0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """A picture is in a stage for the length of a block."""
        if not self._pictures:
            self._since = time.perf_counter()
        self._pictures += 1
        try:
            yield
        finally:
            self._pictures -= 1
            if not self._pictures:
                self.seconds += time.perf_counter() - self._since


in_stages: ContextVar[TimeInStages | None] = ContextVar("in_stages", default=None)


class ObservedBackend:
    """What `Studio` needs of `Backend`."""

    def __init__(self, backend: Backend, metrics: Metrics, tracing: Tracing) -> None:
        self._backend, self._metrics, self._tracing = backend, metrics, tracing

    async def write_tokens(self, request: TokenRequest) -> list[int]:
        """See `Backend`."""
        with self._stage("token", tokens=request.num_visual_tokens) as trace:
            return await self._backend.write_tokens(request, trace)

    async def decode(self, request: DecodeRequest, previews: Sequence[int]) -> AsyncIterator[Drawn]:
        """See `Backend`. What the caller does with the finished picture is no part of the stage's time."""
        with self._stage("decoder", rounds=request.rounds, flow_steps=request.flow_steps) as trace:
            async with aclosing(self._backend.decode(request, previews, trace)) as stages:
                async for drawn in stages:
                    if drawn.rounds is not None:
                        yield drawn
        yield drawn

    async def encode(self, pixels: np.ndarray) -> EncodedPicture:
        """See `Backend`."""
        with self._stage("encoder") as trace:
            return await self._backend.encode(pixels, trace)

    @contextmanager
    def _stage(self, name: str, **attributes: int) -> Iterator[str | None]:
        """Only what was finished is timed; failed and cancelled pictures are counted by the stages."""
        own, begun = in_stages.get() or TimeInStages(), time.perf_counter()
        with own.one_more(), self._tracing.stage(f"ask {name}", **attributes) as trace:
            yield trace
        self._metrics.stage_seconds.labels(name).observe(time.perf_counter() - begun)
