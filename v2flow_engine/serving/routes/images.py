"""`/v1/images/*`: generations, edits, variations, and the pictures behind URLs."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import ValidationError

from v2flow_engine.serving.answers import AnswerStyle, image_events, images_response, told_in_stream
from v2flow_engine.serving.connection import EventStream
from v2flow_engine.serving.errors import ApiError, of_validation
from v2flow_engine.serving.forms import Form, is_multipart, read_form
from v2flow_engine.serving.jobs import Job, edit_job, generation_job, variation_job
from v2flow_engine.serving.openapi import EDIT_REQUEST, VARIATION_REQUEST, answers
from v2flow_engine.serving.protocol.images import (
    EditBody,
    EditFields,
    GenerationBody,
    ImagesResponse,
    VariationFields,
)
from v2flow_engine.serving.server import IMAGE_ROUTE, Server, server_of
from v2flow_engine.serving.uploads import open_reference, open_upload

router = APIRouter()
Shared = Annotated[Server, Depends(server_of)]


@router.post("/v1/images/generations", response_model=None, responses=answers(ImagesResponse, stream=True))
async def generate(body: GenerationBody, request: Request, server: Shared) -> Response:
    """Pictures from a prompt."""
    server.check_model(body.model)
    server.check_counts(body.prompt, body.n)
    style = server.style(request, body)
    job = generation_job(server.folder, body.prompt, body, n=body.n, size=body.size, quality=body.quality)
    return await _answer(request, server, job, style, body, "image_generation")


@router.post(
    "/v1/images/edits",
    response_model=None,
    responses=answers(ImagesResponse, stream=True),
    openapi_extra={"requestBody": EDIT_REQUEST},
)
async def edit(request: Request, server: Shared) -> Response:
    """A picture, the part of it under a mask drawn anew. The mask's transparent parts, or its white ones if it is
    opaque; without a mask, the picture's own transparent parts."""
    if is_multipart(request):
        form = await read_form(request, server.limits)
        body: EditFields = form.fields(EditFields)
        opened = await asyncio.to_thread(_open_files, form, server)
    else:
        body = await _json(request, EditBody)
        opened = await asyncio.to_thread(_open_references, body, server)
    server.check_model(body.model)
    server.check_counts(body.prompt, body.n)
    style = server.style(request, body)
    image, mask = opened
    fields = {"n": body.n, "size": body.size, "quality": body.quality}
    job = await asyncio.to_thread(edit_job, server.folder, body.prompt, body, image, mask, **fields)
    return await _answer(request, server, job, style, body, "image_edit")


@router.post(
    "/v1/images/variations",
    response_model=None,
    responses=answers(ImagesResponse),
    openapi_extra={"requestBody": VARIATION_REQUEST},
)
async def vary(request: Request, server: Shared) -> Response:
    """Other pictures of the same visual tokens."""
    form = await read_form(request, server.limits)
    body = form.fields(VariationFields)
    server.check_model(body.model)
    server.check_counts("", body.n)
    style = server.style(request, body)
    image = await asyncio.to_thread(open_upload, _needed(form), "image", server.limits)
    fields = {"n": body.n, "size": body.size, "quality": body.quality}
    job = await asyncio.to_thread(variation_job, server.folder, body, image, **fields)
    return await _answer(request, server, job, style, body, "image_variation")


@router.get(
    IMAGE_ROUTE,
    response_class=Response,
    responses=answers(None, 404, content={"image/*": {"schema": {"type": "string", "format": "binary"}}}),
)
async def stored(name: str, server: Shared) -> Response:
    """A picture that an answer gave the address of, for as long as it is kept. Needs no key: nobody can guess it."""
    image = await asyncio.to_thread(server.store.get, name)
    if image is None:
        raise ApiError(404, "There is no picture at this address, or no more.", code="not_found")
    headers = {
        "cache-control": f"private, max-age={int(image.seconds_left)}, immutable",
        "content-disposition": "inline",
        "x-content-type-options": "nosniff",
    }
    return Response(image.data, media_type=image.media_type, headers=headers)


async def _answer(
    request: Request, server: Server, job: Job, style: AnswerStyle, body: Any, kind: str
) -> Response:
    """The pictures at once, or as events where the caller asked for a stream."""
    num_partials = getattr(body, "partial_images", None) or 0
    if not getattr(body, "stream", None):
        if num_partials:
            message = "partial_images needs stream: true."
            raise ApiError(400, message, param="partial_images", code="invalid_value")
        with server.admission.enter(len(job.requests)):
            async with aclosing(server.pictures(request, job)) as pictures:
                answer = await images_response(pictures, style, job.size)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
    if style.as_url:
        message = "A stream carries b64_json; leave response_format out."
        raise ApiError(400, message, param="response_format", code="invalid_value")
    with ExitStack() as places:
        places.enter_context(server.admission.enter(len(job.requests)))
        pictures = server.pictures(request, job, num_partials)
        events = told_in_stream(image_events(pictures, style, job.size, kind))
        return EventStream(events, places.pop_all().close)


def _open_files(form: Form, server: Server) -> tuple[Any, Any]:
    mask = form.file("mask")
    image = open_upload(_needed(form), "image", server.limits)
    return image, None if mask is None else open_upload(mask, "mask", server.limits)


def _needed(form: Form) -> bytes:
    image = form.file("image")
    if image is None:
        message = "Missing required parameter: 'image', a file."
        raise ApiError(400, message, param="image", code="missing_required_parameter")
    return image


def _open_references(body: EditBody, server: Server) -> tuple[Any, Any]:
    if len(body.images) > 1:
        message = f"images: this model takes one picture, got {len(body.images)}."
        raise ApiError(400, message, param="images", code="too_many_images")
    image = open_reference(body.images[0], "images", server.limits)
    return image, None if body.mask is None else open_reference(body.mask, "mask", server.limits)


async def _json(request: Request, model: type[EditBody]) -> EditBody:
    body = await request.body()
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise of_validation(error.errors()) from error
