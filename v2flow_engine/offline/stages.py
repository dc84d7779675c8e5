"""Requests -> visual_token_ids -> image bytes, a batch at a time, each row's failure kept in its own row.

The two stages that the Ray actors and the single process share, so that both make the same pictures. Knows
nothing of Ray or of where pictures are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from v2flow_engine.errors import EngineDeadError, V2FlowError
from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.images import ImageMetadata, encode_image
from v2flow_engine.offline.broken_device import is_broken_device

if TYPE_CHECKING:
    import numpy as np

    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.decoding.decoder import Decoder
    from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
    from v2flow_engine.generation.token_generator import TokenGenerator

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class TokenResult:
    """visual_token_ids of one picture, or why there are none. seconds: its share of its batch's time."""

    visual_token_ids: list[int]
    error: str
    seconds: float


@dataclass(frozen=True)
class FinishedImage:
    """An image file's bytes, or why there are none.

    seconds: shares of both stages' batches, added; timings: apart, as "tokens" and "decoder". tokens: visual ones.
    """

    index: int
    image: bytes
    error: str
    seconds: float
    timings: dict[str, float] = field(default_factory=dict)
    tokens: int = 0


def make_tokens(
    folder: ModelFolder, generator: TokenGenerator, requests: Sequence[ImageRequest]
) -> list[TokenResult]:
    """Requests -> visual_token_ids, one result per request in order. Raises nothing but `EngineDeadError`."""
    start = time.perf_counter()
    results = batch_or_each(
        lambda some: generator.generate([request.token_request(folder) for request in some]), requests
    )
    share = (time.perf_counter() - start) / max(1, len(requests))
    return [
        TokenResult([], describe_error(r), share)
        if isinstance(r, Exception)
        else TokenResult(list(r), "", share)
        for r in results
    ]


def make_images(
    folder: ModelFolder,
    decoder: DecoderEngine | Decoder,
    requests: Sequence[ImageRequest],
    tokens: Sequence[TokenResult],
    image_format: str,
    model: dict[str, Any],
) -> list[FinishedImage]:
    """visual_token_ids -> image files with metadata; rows that failed before pass through. Raises nothing but
    `EngineDeadError`.

    Args:
        model: what names the model in every picture's metadata, beside its own parameters.
    """
    from v2flow_engine.decoding.engine.finishing import finish_pictures

    start = time.perf_counter()
    usable = [(r, t) for r, t in zip(requests, tokens, strict=True) if not t.error]

    def make(some: Sequence[tuple[ImageRequest, TokenResult]]) -> list[bytes | Exception]:
        def encode(place: int, picture: np.ndarray) -> bytes | Exception:
            request = some[place][0]
            try:
                parameters = model | request.parameters.to_dict()
                return encode_image(
                    picture, image_format, ImageMetadata(request.prompt, request.seed, parameters)
                )
            except (ValueError, OSError) as error:
                return error

        asked = [request.decode_request(folder, token.visual_token_ids) for request, token in some]
        made = dict(finish_pictures(decoder, asked, encode))
        return [made[place] for place in range(len(some))]

    images = batch_or_each(make, usable)
    share = (time.perf_counter() - start) / max(1, len(usable))
    made = {request.index: image for (request, _), image in zip(usable, images, strict=True)}
    return [_finished(r, t, made.get(r.index), share) for r, t in zip(requests, tokens, strict=True)]


def _finished(
    request: ImageRequest, token: TokenResult, image: bytes | Exception | None, share: float
) -> FinishedImage:
    if isinstance(image, bytes):
        timings = {"tokens": token.seconds, "decoder": share}
        count = len(token.visual_token_ids)
        return FinishedImage(request.index, image, "", token.seconds + share, timings, count)
    error = token.error if image is None else describe_error(image)
    return FinishedImage(request.index, b"", error, token.seconds)


def batch_or_each(
    work: Callable[[Sequence[Item]], Sequence[Value]], items: Sequence[Item]
) -> list[Value | Exception]:
    """`work` on all items at once; if that fails, on each alone, so that one bad item costs only itself.

    An exception takes the place of the value of an item that fails alone. A dead engine is no item's fault and is
    always raised, and a device that broke is one.
    """
    if not items:
        return []
    try:
        return list(work(items))
    except EngineDeadError:
        raise
    except Exception as error:
        if is_broken_device(error):
            raise EngineDeadError(f"the device broke: {describe_error(error)}") from error
        if len(items) == 1:
            return [error]
    return [value for item in items for value in batch_or_each(work, [item])]


def describe_error(error: Exception) -> str:
    """One line: the message of a user's mistake, type and message of anything else."""
    message = " ".join(str(error).split())
    return message if isinstance(error, V2FlowError) else f"{type(error).__name__}: {message}"
