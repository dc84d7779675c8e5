"""A checked body -> what is to be drawn and how it is answered; the same for requests and for lines of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from v2flow_engine.serving.answers import AnswerStyle
from v2flow_engine.serving.errors import ApiError
from v2flow_engine.serving.jobs import Job, edit_job, generation_job
from v2flow_engine.serving.uploads import open_reference

if TYPE_CHECKING:
    from PIL import Image

    from v2flow_engine.serving.protocol.images import EditBody, EditFields, GenerationBody
    from v2flow_engine.serving.server import Server


@dataclass(frozen=True)
class Caller:
    """Who asks.

    key: the digest of the API key, None where none is needed. base_url: what URLs in answers begin with.
    """

    key: str | None
    base_url: str


@dataclass(frozen=True)
class Call:
    """kind: what its events are called."""

    job: Job
    style: AnswerStyle
    body: Any
    kind: str

    @property
    def num_partials(self) -> int:
        """Partial pictures that are asked for; raises `ApiError` for what does not go together."""
        asked = getattr(self.body, "partial_images", None) or 0
        if not getattr(self.body, "stream", None):
            if asked:
                message = "partial_images needs stream: true."
                raise ApiError(400, message, param="partial_images", code="invalid_value")
        elif self.style.as_url:
            message = "A stream carries b64_json; leave response_format out."
            raise ApiError(400, message, param="response_format", code="invalid_value")
        return asked


def generation_call(server: Server, body: GenerationBody, caller: Caller) -> Call:
    """Text -> pictures. Raises `ApiError` and `RequestError`."""
    server.check_model(body.model)
    server.check_counts(body.prompt, body.n)
    style = server.style(body, caller.base_url)
    job = generation_job(server.folder, body.prompt, body, **server.job_fields(body))
    return Call(job, style, body, "image_generation")


async def edit_call(
    server: Server,
    body: EditFields,
    caller: Caller,
    pictures: Callable[[], tuple[Image.Image, Image.Image | None]],
) -> Call:
    """A picture and a mask -> the picture with a part of it drawn anew. Raises like `generation_call`.

    pictures: opens both, in a thread, when all else has been checked.
    """
    server.check_model(body.model)
    server.check_counts(body.prompt, body.n)
    style = server.style(body, caller.base_url)

    def made() -> Job:
        return edit_job(server.folder, body.prompt, body, *pictures(), **server.job_fields(body))

    return Call(await asyncio.to_thread(made), style, body, "image_edit")


async def json_edit_call(server: Server, body: EditBody, caller: Caller) -> Call:
    """The same with pictures in the body, as data URLs or as files that were uploaded."""
    return await edit_call(server, body, caller, lambda: _opened(server, body, caller))


def _opened(server: Server, body: EditBody, caller: Caller) -> tuple[Image.Image, Image.Image | None]:
    if len(body.images) > 1:
        message = f"images: this model takes one picture, got {len(body.images)}."
        raise ApiError(400, message, param="images", code="too_many_images")

    def opened(reference: Any, param: str) -> Image.Image:
        return open_reference(reference, param, server.limits, server.files, caller.key)

    return opened(body.images[0], "images"), None if body.mask is None else opened(body.mask, "mask")
