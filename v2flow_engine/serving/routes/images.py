"""`/v1/images/*`: generations, edits, variations, and the pictures behind URLs."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import ValidationError

from v2flow_engine.serving.answers import image_events, images_response, told_in_stream
from v2flow_engine.serving.calls import Call, edit_call, generation_call, json_edit_call
from v2flow_engine.serving.connection import EventStream
from v2flow_engine.serving.errors import ApiError, of_validation
from v2flow_engine.serving.forms import Form, is_multipart, read_form
from v2flow_engine.serving.jobs import Job, variation_job
from v2flow_engine.serving.openapi import EDIT_REQUEST, VARIATION_REQUEST, answers
from v2flow_engine.serving.protocol.images import (
    EditBody,
    EditFields,
    GenerationBody,
    ImagesResponse,
    VariationFields,
)
from v2flow_engine.serving.server import IMAGE_ROUTE, Server, caller_of, server_of
from v2flow_engine.serving.uploads import open_upload

router = APIRouter()
Shared = Annotated[Server, Depends(server_of)]


@router.post("/v1/images/generations", response_model=None, responses=answers(ImagesResponse, stream=True))
async def generate(body: GenerationBody, request: Request, server: Shared) -> Response:
    """Pictures from a prompt."""
    call = generation_call(server, body, caller_of(request))
    with server.admission.held(len(call.job.requests)) as places:
        return await _answer(request, server, call, places)


@router.post(
    "/v1/images/edits",
    response_model=None,
    responses=answers(ImagesResponse, stream=True),
    openapi_extra={"requestBody": EDIT_REQUEST},
)
async def edit(request: Request, server: Shared) -> Response:
    """A picture, the part of it under a mask drawn anew. The mask's transparent parts, or its white ones if it is
    opaque; without a mask, the picture's own transparent parts."""
    caller = caller_of(request)
    if not is_multipart(request):
        asked = await _json(request)
        with server.admission.held(asked.n or 1) as places:  # a full server opens no pictures
            return await _answer(request, server, await json_edit_call(server, asked, caller), places)
    form = await read_form(request, server.limits)
    body = form.fields(EditFields)
    with server.admission.held(body.n or 1) as places:
        call = await edit_call(server, body, caller, lambda: _open_files(form, server))
        return await _answer(request, server, call, places)


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
    style = server.style(body, caller_of(request).base_url)

    def made() -> Job:
        image = open_upload(_needed(form), "image", server.limits)
        return variation_job(server.folder, body, image, **server.job_fields(body))

    with server.admission.held(body.n or 1) as places:
        call = Call(await asyncio.to_thread(made), style, body, "image_variation")
        return await _answer(request, server, call, places)


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


async def _answer(request: Request, server: Server, call: Call, places: ExitStack) -> Response:
    """The pictures at once, or as events where the caller asked for a stream, which takes over the places."""
    job, style, num_partials = call.job, call.style, call.num_partials
    if not getattr(call.body, "stream", None):
        async with aclosing(server.pictures(request, job)) as pictures:
            answer = await images_response(pictures, style, job.size)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
    pictures = server.pictures(request, job, num_partials)
    events = told_in_stream(image_events(pictures, style, job.size, call.kind), request)
    return EventStream(events, places.pop_all().close, server.limits.send_seconds)


def _open_files(form: Form, server: Server) -> tuple[Image.Image, Image.Image | None]:
    mask = form.file("mask")
    image = open_upload(_needed(form), "image", server.limits)
    return image, None if mask is None else open_upload(mask, "mask", server.limits)


def _needed(form: Form) -> bytes:
    image = form.file("image")
    if image is None:
        message = "Missing required parameter: 'image', a file."
        raise ApiError(400, message, param="image", code="missing_required_parameter")
    return image


async def _json(request: Request) -> EditBody:
    body = await request.body()
    try:
        return EditBody.model_validate_json(body)
    except ValidationError as error:
        raise of_validation(error.errors()) from error
