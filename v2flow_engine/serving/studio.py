"""A job -> its pictures, partial ones on the way: both stages in turn, and once more if one of them died.

    source -> codes, latents;   prompt -> visual_token_ids -> pictures, partial and finished

Knows nothing of HTTP or of where the stages run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from v2flow_engine.decoding.preview_rounds import preview_rounds
from v2flow_engine.errors import EngineDeadError
from v2flow_engine.generation.editing import forced_ids, positions_in, with_original
from v2flow_engine.serving.merging import merged

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.decoding.request import DecodeRequest
    from v2flow_engine.generation.image_request import ImageRequest
    from v2flow_engine.generation.request import TokenRequest
    from v2flow_engine.serving.backend import Drawn, EncodedPicture
    from v2flow_engine.serving.jobs import Job
    from v2flow_engine.serving.observed import ObservedBackend

Answer = TypeVar("Answer")
ATTEMPTS = 2


@dataclass(frozen=True)
class Tokens:
    """What the LLM read and wrote. text: the prompt's ids; image: visual tokens that were given to it."""

    text: int = 0
    image: int = 0
    written: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.text + other.text, self.image + other.image, self.written + other.written)


@dataclass(frozen=True)
class Picture:
    """One picture of a job, index from 0. partial: its number from 0, None when finished. tokens: when finished."""

    index: int
    request: ImageRequest
    pixels: np.ndarray
    partial: int | None = None
    tokens: Tokens = Tokens()


class Studio:
    """One model and its backend."""

    def __init__(self, folder: ModelFolder, backend: ObservedBackend) -> None:
        self.folder, self.backend = folder, backend

    async def pictures(self, job: Job, num_partials: int = 0) -> AsyncIterator[Picture]:
        """Partial and finished pictures as they come. Leaving early cancels what is under way."""
        encoded = None
        if job.source is not None:
            source = job.source
            encoded = await self._twice(lambda: self.backend.encode(source))
        each = [self._picture(job, index, encoded, num_partials) for index in range(len(job.requests))]
        async with aclosing(merged(each)) as pictures:
            async for picture in pictures:
                yield picture

    async def _picture(
        self, job: Job, index: int, encoded: EncodedPicture | None, num_partials: int
    ) -> AsyncIterator[Picture]:
        request = job.requests[index]
        decode_request, tokens = await self._written(job, request, encoded)
        previews = preview_rounds(request.parameters.rounds, num_partials)
        async with aclosing(self._drawn(decode_request, previews)) as stages:
            async for drawn in stages:
                pixels = drawn.pixels if job.plan is None else with_original(job.plan, drawn.pixels)
                if drawn.rounds is None:
                    yield Picture(index, request, pixels, tokens=tokens)
                else:
                    yield Picture(index, request, pixels, partial=previews.index(drawn.rounds))

    async def _written(
        self, job: Job, request: ImageRequest, encoded: EncodedPicture | None
    ) -> tuple[DecodeRequest, Tokens]:
        """The first stage: what the decoder is asked, and what that took."""
        folder = self.folder
        if job.from_codes and encoded is not None:
            ids = folder.vocabulary.visual_token_ids(encoded.codes)
            return request.decode_request(folder, ids), Tokens(image=len(ids))
        asked = request.token_request(folder)
        if job.plan is None or encoded is None:
            return request.decode_request(folder, await self._ids(asked)), _tokens(asked)
        asked = dataclasses.replace(
            asked, forced_visual_token_ids=forced_ids(folder, job.plan, encoded.codes)
        )
        redraw = positions_in(folder.visual_tokenizer_config, job.plan.cells).flatten()
        plain = request.decode_request(folder, await self._ids(asked))
        return dataclasses.replace(plain, known_latents=encoded.latents, redraw=redraw), _tokens(asked)

    async def _ids(self, asked: TokenRequest) -> list[int]:
        return await self._twice(lambda: self.backend.write_tokens(asked))

    async def _drawn(self, request: DecodeRequest, previews: list[int]) -> AsyncIterator[Drawn]:
        """The second stage; a second attempt shows only what the first one has not."""
        shown: set[int] = set()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                left = [rounds for rounds in previews if rounds not in shown]
                async with aclosing(self.backend.decode(request, left)) as stages:
                    async for drawn in stages:
                        if drawn.rounds is not None:
                            shown.add(drawn.rounds)
                        yield drawn
                return
            except EngineDeadError:
                if attempt == ATTEMPTS:
                    raise

    async def _twice(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """A stage that died is there again, or another replica of it: the same request gives the same result."""
        try:
            return await ask()
        except EngineDeadError:
            return await ask()


def _tokens(asked: TokenRequest) -> Tokens:
    forced = asked.forced_visual_token_ids or ()
    given = sum(token_id is not None for token_id in forced)
    return Tokens(len(asked.prompt_token_ids), given, asked.num_visual_tokens - given)
