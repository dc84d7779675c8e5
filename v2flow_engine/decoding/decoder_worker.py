"""DecodeRequests of many callers -> futures of pictures, and previews between rounds: a decoder engine in a thread.

    (worker's thread: rounds -> latents) -> (thread of pixels: autoencoder) -> futures, previews

Knows nothing of prompts or files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from v2flow_engine.decoding.engine.background_pixels import BackgroundPixels, Pixels
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
        self._pixels: BackgroundPixels | None = None
        super().__init__(start, max_in_flight=max_in_flight, name="decoder", on_death=on_death)

    def decode(
        self, request: DecodeRequest, previews: Sequence[int] = (), show: Preview | None = None
    ) -> Future[np.ndarray]:
        """A future of the picture, (H, W, 3) uint8; raises as `submit` does.

        Args:
            previews: the rounds after which `show` is called with the number of the round and the picture as it
                might end. Each costs about a round and the pixels once more.
            show: called in the thread of the pixels, before the future is done; should return at once.
        """
        return self.submit(request, _Previews(previews, show) if previews and show else None)

    def _add(self, engine: DecoderEngine, ticket: Ticket[DecodeRequest, np.ndarray]) -> None:
        engine.add(ticket.request, ticket.request_id)

    def _cancel(self, engine: DecoderEngine, request_id: str) -> None:
        if engine.has(request_id):
            engine.cancel(request_id)

    def _busy(self, engine: DecoderEngine) -> bool:
        return engine.busy

    def _step(self, engine: DecoderEngine) -> Sequence[tuple[str, torch.Tensor]]:
        return engine.step_latents()

    def _hand_out(
        self, engine: DecoderEngine, finished: Sequence[tuple[str, torch.Tensor]], begun: float
    ) -> None:
        self._paint(engine, finished, lambda request_id, picture: self._resolve(request_id, picture, begun))

    def _paint(
        self,
        engine: DecoderEngine,
        latents: Sequence[tuple[str, torch.Tensor]],
        use: Callable[[str, np.ndarray], None],
    ) -> None:
        """Have the pixels made, and used in the thread that makes them; a caller who leaves wants none."""
        futures = self._pixels_of(engine).submit([each for _, each in latents])
        for (request_id, _), pixels in zip(latents, futures, strict=True):
            pixels.add_done_callback(partial(self._painted, engine, request_id, use))
            ticket = self._ticket(request_id)
            if ticket is None:
                pixels.cancel()
            else:
                ticket.future.add_done_callback(partial(_cancel_too, pixels))

    def _painted(
        self, engine: DecoderEngine, request_id: str, use: Callable[[str, np.ndarray], None], pixels: Pixels
    ) -> None:
        if pixels.cancelled():
            return
        # Asked for, not raised: this frame would stay with the error, and hold the engine.
        error = pixels.exception()
        if error is None:
            try:
                use(request_id, pixels.result())
            except Exception as raised:
                error = raised
        if error is not None:
            self._break(engine, error)

    def _pixels_of(self, engine: DecoderEngine) -> BackgroundPixels:
        if self._pixels is None:
            self._pixels = BackgroundPixels(engine.pixels, engine.device)
        return self._pixels

    def _shut_down(self, engine: DecoderEngine) -> None:
        pixels, self._pixels = self._pixels, None
        if pixels is not None:
            pixels.close()

    def _has_place(self, engine: DecoderEngine, request_id: str) -> bool:
        return engine.rounds_done(request_id) is not None

    def _num_stepped(self, engine: DecoderEngine, finished: int) -> int:
        return engine.scheduler.num_running + finished

    def _after_step(
        self, engine: DecoderEngine, running: Iterable[Ticket[DecodeRequest, np.ndarray]]
    ) -> None:
        due: dict[str, tuple[_Previews, int]] = {}
        for ticket in running:
            wanted: _Previews | None = ticket.extra
            if wanted is None or (done := engine.rounds_done(ticket.request_id)) is None:
                continue
            if done in wanted.rounds and done not in wanted.shown:
                wanted.shown.add(done)
                due[ticket.request_id] = wanted, done
        latents = list(zip(due, engine.preview_latents(list(due)), strict=True))
        self._paint(engine, latents, lambda request_id, picture: _show(*due[request_id], picture))


def _show(wanted: _Previews, done: int, picture: np.ndarray) -> None:
    try:
        wanted.show(done, picture)
    except Exception:  # of the caller, who may have left: no reason to stop the others
        logging.getLogger(__name__).exception("a preview's caller failed")


def _cancel_too(pixels: Pixels, future: Future[np.ndarray]) -> None:
    if future.cancelled():
        pixels.cancel()
