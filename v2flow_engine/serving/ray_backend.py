"""Both stages as Ray Serve deployments: handles -> the app's `Backend`. Imports Ray when called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import EngineDeadError, QueueFullError
from v2flow_engine.serving.backend import Drawn, EncodedPicture, Stats

if TYPE_CHECKING:
    import numpy as np

    from v2flow_engine.decoding.request import DecodeRequest
    from v2flow_engine.generation.request import TokenRequest

CHECK_SECONDS = 30.0


class RayBackend:
    """See `Backend`.

    Args:
        tokens, decoder: handles of the two deployments.
    """

    def __init__(self, tokens: Any, decoder: Any) -> None:
        self._tokens, self._decoder = tokens, decoder
        self._decoder_stream = decoder.options(stream=True)

    async def write_tokens(self, request: TokenRequest, trace: str | None = None) -> list[int]:
        """See `Backend`."""
        return await _result(self._tokens.write_tokens.remote(request, trace))

    async def decode(
        self, request: DecodeRequest, previews: Sequence[int], trace: str | None = None
    ) -> AsyncIterator[Drawn]:
        """See `Backend`."""
        with _stage_errors():
            stream = self._decoder_stream.decode.remote(request, list(previews), trace)
            finished = False
            try:
                async for drawn in stream:
                    finished = drawn.rounds is None
                    yield drawn
            finally:
                if not finished:
                    stream.cancel()

    async def encode(self, pixels: np.ndarray, trace: str | None = None) -> EncodedPicture:
        """See `Backend`."""
        return await _result(self._decoder.encode.remote(pixels, trace))

    async def check(self) -> None:
        """See `Backend`: any one replica of each stage is asked for a sign of life."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                for handle in (self._tokens, self._decoder):
                    await _result(handle.answer.remote())
        except TimeoutError as error:
            raise EngineDeadError(f"no answer within {CHECK_SECONDS:g} s") from error

    async def stats(self) -> Stats:
        """See `Backend`."""
        tokens, decoder = await asyncio.gather(_by_replica(self._tokens), _by_replica(self._decoder))
        return {"token": tokens, "decoder": decoder}

    async def close(self) -> None:
        """Nothing: Serve drains and ends the stages."""


async def _result(response: Any) -> Any:
    """Await one answer of a stage; who stops waiting, cancels the work."""
    with _stage_errors():
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise


async def _by_replica(handle: Any) -> dict[str, dict[str, Any]]:
    """Counters of a stage's replicas; those that died since Serve last looked are left out."""
    with _stage_errors():
        try:
            asked = handle.broadcast("answer")
            answers = await asked.results_async(timeout_s=CHECK_SECONDS, return_exceptions=True)
        except TimeoutError as error:
            raise EngineDeadError(f"no answer within {CHECK_SECONDS:g} s") from error
    counts = [answer for answer in answers if isinstance(answer, dict)]
    if not counts:
        raise EngineDeadError("no replica of a stage answers")
    return {each.pop("replica"): each for each in counts}


@contextmanager
def _stage_errors() -> Iterator[None]:
    """Ray's errors as this project's: a stage's own error as it was raised, a lost replica as a dead engine."""
    from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

    try:
        yield
    except RayTaskError as error:
        if error.cause is not None:
            raise error.cause from error
        raise
    except BackPressureError as error:
        raise QueueFullError(error.message) from error
    except (RayActorError, WorkerCrashedError, DeploymentUnavailableError, ReplicaUnavailableError) as error:
        raise EngineDeadError(f"a replica was lost: {type(error).__name__}") from error
