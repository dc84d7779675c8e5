"""DecodeRequests of many callers -> futures of pictures, and previews between rounds: a decoder engine in a thread.

Knows nothing of prompts or files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.engine_worker import EngineWorker, Ticket

MAX_IN_FLIGHT = 512
Preview = Callable[[int, np.ndarray], None]  # rounds that are done, (H, W, 3) uint8


@dataclass
class _Previews:
    """What one caller wants to see: after which rounds, and where to."""

    rounds: Sequence[int]
    show: Preview
    shown: set[int] = field(default_factory=set)


class DecoderWorker(EngineWorker[DecoderEngine, DecodeRequest, np.ndarray]):
    """See `EngineWorker`.

    Args:
        start: makes the engine; called in the worker's thread.
    """

    def __init__(
        self,
        start: Callable[[], DecoderEngine],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        super().__init__(start, max_in_flight=max_in_flight, name="decoder", on_death=on_death)

    def decode(
        self, request: DecodeRequest, previews: Sequence[int] = (), show: Preview | None = None
    ) -> Future[np.ndarray]:
        """A future of the picture, (H, W, 3) uint8; raises as `submit` does.

        Args:
            previews: the rounds after which `show` is called with the number of the round and the picture as it
                might end. Each costs about a round of this image alone.
            show: called in the worker's thread, before the future is done; should return at once.
        """
        return self.submit(request, _Previews(previews, show) if previews and show else None)

    def _add(self, engine: DecoderEngine, ticket: Ticket[DecodeRequest, np.ndarray]) -> None:
        engine.add(ticket.request, ticket.request_id)

    def _cancel(self, engine: DecoderEngine, request_id: str) -> None:
        if engine.has(request_id):
            engine.cancel(request_id)

    def _busy(self, engine: DecoderEngine) -> bool:
        return engine.busy

    def _step(self, engine: DecoderEngine) -> Sequence[tuple[str, np.ndarray]]:
        return [(image.request_id, image.picture) for image in engine.step()]

    def _has_place(self, engine: DecoderEngine, request_id: str) -> bool:
        return engine.rounds_done(request_id) is not None

    def _num_stepped(self, engine: DecoderEngine, finished: int) -> int:
        return engine.scheduler.num_running + finished

    def _after_step(
        self, engine: DecoderEngine, running: Iterable[Ticket[DecodeRequest, np.ndarray]]
    ) -> None:
        for ticket in running:
            wanted: _Previews | None = ticket.extra
            if wanted is None or (done := engine.rounds_done(ticket.request_id)) is None:
                continue
            if done in wanted.rounds and done not in wanted.shown:
                wanted.shown.add(done)
                picture = engine.preview(ticket.request_id)
                try:
                    wanted.show(done, picture)
                except Exception:  # of the caller, who may have left: no reason to stop the others
                    logging.getLogger(__name__).exception("a preview's caller failed")
