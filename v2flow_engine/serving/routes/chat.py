"""`/v1/chat/completions`: the last user message is the prompt, the answer is a picture."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from v2flow_engine.errors import RequestError
from v2flow_engine.serving.answers import AnswerStyle, sse, told_in_stream
from v2flow_engine.serving.connection import EventStream
from v2flow_engine.serving.errors import ApiError
from v2flow_engine.serving.image_store import MEDIA_TYPES
from v2flow_engine.serving.jobs import generation_job
from v2flow_engine.serving.openapi import answers
from v2flow_engine.serving.protocol.chat import (
    AnswerMessage,
    ChatBody,
    ChatChunk,
    ChatCompletion,
    ChatUsage,
    Choice,
    ChunkChoice,
    ImagePart,
    ImageUrl,
)
from v2flow_engine.serving.server import Server, caller_of, server_of
from v2flow_engine.serving.studio import Picture, Tokens

router = APIRouter()
Shared = Annotated[Server, Depends(server_of)]


@router.post("/v1/chat/completions", response_model=None, responses=answers(ChatCompletion, stream=True))
async def complete(body: ChatBody, request: Request, server: Shared) -> Response:
    """A picture of what the last user message says, as an answer in a chat."""
    server.check_model(body.model)
    prompt = prompt_of(body)
    server.check_counts(prompt, body.n, prompt_is="messages")
    style = server.style(body, caller_of(request).base_url)
    try:
        job = generation_job(server.folder, prompt, body, **server.job_fields(body))
    except RequestError as error:
        raise RequestError(str(error), "messages" if error.param == "prompt" else error.param) from error
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": body.model or server.names[0],
    }
    with server.admission.held(len(job.requests)) as places:
        pictures = server.pictures(request, job)
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            events = told_in_stream(_chunks(pictures, style, head, usage), request, named=False)
            return EventStream(events, places.pop_all().close, server.limits.send_seconds)
        async with aclosing(pictures) as finished:
            answer = await _completion(finished, style, head)
        return Response(answer.model_dump_json(), media_type="application/json")


def prompt_of(body: ChatBody) -> str:
    """The text of the last user message; raises `ApiError` if there is none, or if it holds more than text."""
    for index in range(len(body.messages) - 1, -1, -1):
        message = body.messages[index]
        if message.role != "user":
            continue
        if isinstance(message.content, str):
            return message.content
        for part in message.content or []:
            if part.type != "text":
                told = (
                    f"A message may hold text only, not {part.type[:40]!r}; /v1/images/edits takes pictures."
                )
                raise ApiError(400, told, param=f"messages.{index}.content", code="not_supported")
        return "\n".join(part.text or "" for part in message.content or [])
    raise ApiError(400, "There is no message of the user.", param="messages", code="invalid_value")


async def _completion(
    pictures: AsyncIterator[Picture], style: AnswerStyle, head: dict[str, Any]
) -> ChatCompletion:
    choices: dict[int, Choice] = {}
    tokens = Tokens()
    async for picture in pictures:
        content, part = await _content(picture, style)
        choices[picture.index] = Choice(
            index=picture.index, message=AnswerMessage(content=content, images=[part])
        )
        tokens += picture.tokens
    return ChatCompletion(**head, choices=[choices[index] for index in sorted(choices)], usage=_usage(tokens))


async def _chunks(
    pictures: AsyncIterator[Picture], style: AnswerStyle, head: dict[str, Any], with_usage: bool
) -> AsyncIterator[bytes]:
    tokens = Tokens()

    def chunk(choices: list[ChunkChoice], usage: ChatUsage | None = None) -> bytes:
        leave_out = None if usage else {"usage"}
        return sse(ChatChunk(**head, choices=choices, usage=usage).model_dump_json(exclude=leave_out))

    async for picture in pictures:
        content, part = await _content(picture, style)
        delta = {"role": "assistant", "content": content, "images": [part.model_dump()]}
        yield chunk([ChunkChoice(index=picture.index, delta=delta)])
        yield chunk([ChunkChoice(index=picture.index, delta={}, finish_reason="stop")])
        tokens += picture.tokens
    if with_usage:
        yield chunk([], _usage(tokens))
    yield sse("[DONE]")


async def _content(picture: Picture, style: AnswerStyle) -> tuple[str, ImagePart]:
    """Markdown for clients that show text, and the picture itself for those that know `images`."""
    url = f"data:{MEDIA_TYPES[style.image_format]};base64,{await style.base64_of(picture)}"
    return f"![picture]({await style.url(picture)})", ImagePart(image_url=ImageUrl(url=url))


def _usage(tokens: Tokens) -> ChatUsage:
    given = tokens.text + tokens.image
    return ChatUsage(
        prompt_tokens=given, completion_tokens=tokens.written, total_tokens=given + tokens.written
    )
