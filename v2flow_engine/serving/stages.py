"""A model folder and settings -> the workers of the two stages, and what is asked of them from asyncio.

The same for one process and for Ray's replicas. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from v2flow_engine.serving.backend import Drawn, EncodedPicture
from v2flow_engine.serving.kernel_cache import bound_kernel_cache

if TYPE_CHECKING:
    from pathlib import Path

    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.decoding.decoder_worker import DecoderWorker
    from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
    from v2flow_engine.decoding.request import DecodeRequest
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer
    from v2flow_engine.generation.request import TokenRequest
    from v2flow_engine.generation.token_generator import TokenGenerator
    from v2flow_engine.generation.token_worker import TokenWorker
    from v2flow_engine.serving.settings import ServerSettings
    from v2flow_engine.serving.tracing import Tracing

OnDeath = Callable[[BaseException], None]


def start_token_worker(
    folder: ModelFolder, settings: ServerSettings, *, on_death: OnDeath | None = None
) -> TokenWorker:
    """Start the LLM's engine in a thread; requests wait until it is there."""
    from v2flow_engine.generation.token_generator import TokenGenerator
    from v2flow_engine.generation.token_worker import TokenWorker

    def start() -> TokenGenerator:
        return TokenGenerator(
            folder, dtype=settings.dtype, max_num_seqs=settings.max_num_seqs, guided=settings.guided
        )

    bound_kernel_cache()
    return TokenWorker(start, max_in_flight=_in_flight(settings), on_death=on_death)


def start_decoder_worker(
    folder: ModelFolder, settings: ServerSettings, *, on_death: OnDeath | None = None
) -> DecoderWorker:
    """Start the decoder's engine in a thread. It takes twice the pictures, so that none written is ever refused."""
    from v2flow_engine.decoding.decoder_worker import DecoderWorker
    from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
    from v2flow_engine.precision import decoder_dtype

    dtype = decoder_dtype(settings.dtype, settings.device)

    def start() -> DecoderEngine:
        _image_tokenizer.cache_clear()  # it would keep an engine that died
        return DecoderEngine.from_folder(folder, settings.device, dtype)

    bound_kernel_cache()
    return DecoderWorker(start, max_in_flight=2 * _in_flight(settings), on_death=on_death)


def _in_flight(settings: ServerSettings) -> int:
    """Pictures of requests and of batches."""
    return settings.limits.pictures + settings.limits.batch_pictures


async def write_with(
    worker: TokenWorker, request: TokenRequest, tracing: Tracing, trace: str | None
) -> list[int]:
    """See `Backend.write_tokens`."""
    with tracing.stage("token generator", trace or ""):
        return await asyncio.wrap_future(worker.submit(request))


async def decode_with(
    worker: DecoderWorker,
    request: DecodeRequest,
    previews: Sequence[int],
    tracing: Tracing,
    trace: str | None,
) -> AsyncIterator[Drawn]:
    """See `Backend.decode`. Leaving the iterator early, or a cancelled task, takes the picture out of the engine."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Drawn | None] = asyncio.Queue()

    def show(rounds: int, pixels: np.ndarray) -> None:
        with suppress(RuntimeError):  # the loop is gone, and with it whoever waited
            loop.call_soon_threadsafe(arrived.put_nowait, Drawn(rounds, pixels))

    with tracing.stage("decoder", trace or ""):
        future = worker.decode(request, previews, show)
        finished = asyncio.wrap_future(future)
        finished.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            while (drawn := await arrived.get()) is not None:
                yield drawn
            yield Drawn(None, await finished)
        finally:
            finished.cancel()
            future.cancel()


async def encode_with(
    worker: DecoderWorker, folder: ModelFolder, pixels: np.ndarray, tracing: Tracing, trace: str | None
) -> EncodedPicture:
    """See `Backend.encode`; between two rounds of the decoder, whose weights it needs."""
    with tracing.stage("encoder", trace or ""):
        return await asyncio.wrap_future(worker.call(lambda engine: _encode(engine, folder, pixels)))


def _encode(engine: DecoderEngine, folder: ModelFolder, pixels: np.ndarray) -> EncodedPicture:
    from PIL import Image

    tokenizer = _image_tokenizer(engine, folder.path)
    latents = tokenizer.latents_of([Image.fromarray(pixels)])
    return EncodedPicture(tokenizer.encode_latents(latents)[0].codes, latents[0].float().cpu())


@lru_cache(maxsize=1)
def _image_tokenizer(engine: DecoderEngine, path: Path) -> ImageTokenizer:
    """Kept, for beside an engine in bfloat16 it has weights of its own."""
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer

    return ImageTokenizer(open_model(path), engine)
