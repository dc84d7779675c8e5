"""Both stages as threads of this process: `v2flow serve --single-process`, no Ray."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from v2flow_engine.errors import EngineDeadError
from v2flow_engine.serving.backend import Drawn, EncodedPicture, Stats
from v2flow_engine.serving.stages import (
    decode_with,
    encode_with,
    start_decoder_worker,
    start_token_worker,
    write_with,
)
from v2flow_engine.serving.tracing import tracing_to

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.decoding.request import DecodeRequest
    from v2flow_engine.generation.request import TokenRequest
    from v2flow_engine.serving.settings import ServerSettings

CHECK_SECONDS = 30.0


class InProcessBackend:
    """See `Backend`. An engine that breaks is started again by its worker."""

    def __init__(self, folder: ModelFolder, settings: ServerSettings) -> None:
        self.folder, self.settings = folder, settings
        self._tracing = tracing_to(settings.traces_url)
        self.token_worker = start_token_worker(folder, settings)
        self.decoder_worker = start_decoder_worker(folder, settings)

    async def write_tokens(self, request: TokenRequest, trace: str | None = None) -> list[int]:
        """See `Backend`."""
        return await write_with(self.token_worker, request, self._tracing, trace)

    def decode(
        self, request: DecodeRequest, previews: Sequence[int], trace: str | None = None
    ) -> AsyncIterator[Drawn]:
        """See `Backend`."""
        return decode_with(self.decoder_worker, request, previews, self._tracing, trace)

    async def encode(self, pixels: np.ndarray, trace: str | None = None) -> EncodedPicture:
        """See `Backend`."""
        return await encode_with(self.decoder_worker, self.folder, pixels, self._tracing, trace)

    async def check(self) -> None:
        """See `Backend`: each engine's thread is asked for a sign of life."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                for worker in (self.token_worker, self.decoder_worker):
                    await asyncio.wrap_future(worker.call(lambda engine: None))
        except TimeoutError as error:
            raise EngineDeadError(f"no answer within {CHECK_SECONDS:g} s") from error

    async def stats(self) -> Stats:
        """See `Backend`; each stage has one replica, 0."""
        workers = {"token": self.token_worker, "decoder": self.decoder_worker}
        return {name: {"0": dataclasses.asdict(worker.stats)} for name, worker in workers.items()}

    async def close(self) -> None:
        """See `Backend`. An engine that is just being made is not waited for."""
        for worker in (self.token_worker, self.decoder_worker):
            drain = 0 if worker.starting else self.settings.drain_seconds
            await asyncio.to_thread(worker.close, drain=True, timeout=drain)
            await asyncio.to_thread(worker.close, timeout=0 if worker.starting else None)

    @property
    def starting(self) -> bool:
        """Whether an engine is being made."""
        return self.token_worker.starting or self.decoder_worker.starting
