"""Pictures of a job -> the bytes, JSON and events of an answer."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from v2flow_engine.images import ImageMetadata, encode_image
from v2flow_engine.serving.connection import ClientLeftError
from v2flow_engine.serving.errors import ApiError, as_api_error, note_broken_answer
from v2flow_engine.serving.protocol.common import TokensDetails, Usage
from v2flow_engine.serving.protocol.images import ImageData, ImageEvent, ImagesResponse
from v2flow_engine.serving.quality import plain_quality
from v2flow_engine.serving.studio import Picture, Tokens

if TYPE_CHECKING:
    from fastapi import Request

    from v2flow_engine.serving.image_store import ImageStore
    from v2flow_engine.serving.metrics import Metrics


@dataclass(frozen=True)
class AnswerStyle:
    """How a caller wants to have pictures.

    compression: OpenAI's output_compression, None for the best quality. url_of: makes the address of a kept picture.
    metrics: are told how long files take.
    described: the model and its digest, for the pictures' metadata.
    """

    image_format: str
    compression: int | None
    as_url: bool
    quality: str
    safety_identifier: str | None
    described: dict[str, Any]
    store: ImageStore
    url_of: Callable[[str], str]
    metrics: Metrics

    @classmethod
    def of(
        cls,
        body: Any,
        *,
        described: dict[str, Any],
        store: ImageStore,
        url_of: Callable[[str], str],
        metrics: Metrics,
    ) -> AnswerStyle:
        """What a body asks for; raises `ApiError` for what does not go together."""
        image_format = body.output_format or "png"
        if image_format == "png" and body.output_compression not in (None, 100):
            message = "output_compression is for webp and jpeg; png loses nothing."
            raise ApiError(400, message, param="output_compression", code="invalid_value")
        return cls(
            image_format=image_format,
            compression=body.output_compression,
            as_url=getattr(body, "response_format", None) == "url",
            quality=plain_quality(body.quality),
            safety_identifier=getattr(body, "safety_identifier", None) or body.user or None,
            described=described,
            store=store,
            url_of=url_of,
            metrics=metrics,
        )

    async def bytes_of(self, picture: Picture) -> bytes:
        """The picture as a file that says how it was made."""
        return await asyncio.to_thread(self._encode, picture)

    async def base64_of(self, picture: Picture) -> str:
        """The same in base64."""
        return base64.b64encode(await self.bytes_of(picture)).decode("ascii")

    async def url(self, picture: Picture) -> str:
        """Keep the picture and return its address."""
        name = await asyncio.to_thread(self.store.put, await self.bytes_of(picture), self.image_format)
        return self.url_of(name)

    def _encode(self, picture: Picture) -> bytes:
        request, begun = picture.request, time.perf_counter()
        metadata = None
        if picture.partial is None:
            how = {**self.described, **request.parameters.to_dict()}
            metadata = ImageMetadata(request.prompt, request.seed, how)
        quality = None if self.compression is None else max(1, self.compression)
        data = encode_image(picture.pixels, self.image_format, metadata, quality)
        self.metrics.file_seconds.labels(self.image_format).observe(time.perf_counter() - begun)
        return data


async def images_response(pictures: AsyncIterator[Picture], style: AnswerStyle, size: str) -> ImagesResponse:
    """All pictures of a job in one answer."""
    data: dict[int, ImageData] = {}
    tokens = Tokens()
    async for picture in pictures:
        if style.as_url:
            entry = ImageData(url=await style.url(picture), seed=picture.request.seed)
        else:
            entry = ImageData(b64_json=await style.base64_of(picture), seed=picture.request.seed)
        data[picture.index] = entry
        tokens += picture.tokens
    return ImagesResponse(
        created=int(time.time()),
        data=[data[index] for index in sorted(data)],
        output_format=style.image_format,
        quality=style.quality,
        size=size,
        usage=usage_of(tokens),
        safety_identifier=style.safety_identifier,
    )


async def image_events(
    pictures: AsyncIterator[Picture], style: AnswerStyle, size: str, kind: str
) -> AsyncIterator[bytes]:
    """Pictures as server-sent events; kind: "image_generation" or "image_edit"."""
    async for picture in pictures:
        partial = picture.partial is not None
        event = ImageEvent(
            type=f"{kind}.{'partial_image' if partial else 'completed'}",
            b64_json=await style.base64_of(picture),
            created_at=int(time.time()),
            output_format=style.image_format,
            quality=style.quality,
            size=size,
            image_index=picture.index,
            seed=picture.request.seed,
            partial_image_index=picture.partial,
            usage=None if partial else usage_of(picture.tokens),
            safety_identifier=style.safety_identifier,
        )
        yield sse(event.model_dump_json(exclude_none=True), event.type)


async def told_in_stream(
    events: AsyncIterator[bytes], request: Request, named: bool = True
) -> AsyncIterator[bytes]:
    """The same events; an error on the way becomes the last one, since the status has been sent long ago."""
    try:
        async for event in events:
            yield event
    except ClientLeftError:
        return
    except Exception as error:
        told = as_api_error(error)
        note_broken_answer(request.scope["state"], told)
        yield sse(told.response().body.decode(), "error" if named else None)


def sse(data: str, event: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {data}\n\n".encode()


def usage_of(tokens: Tokens) -> Usage:
    """Counts in OpenAI's shape. All that is written are visual tokens."""
    given = tokens.text + tokens.image
    return Usage(
        input_tokens=given,
        input_tokens_details=TokensDetails(text_tokens=tokens.text, image_tokens=tokens.image),
        output_tokens=tokens.written,
        output_tokens_details=TokensDetails(text_tokens=0, image_tokens=tokens.written),
        total_tokens=given + tokens.written,
    )
