"""One request of a batch -> its answer, by the server's own stages. What goes wrong becomes the answer, as in HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from v2flow_engine.errors import EngineDeadError, QueueFullError
from v2flow_engine.serving.answers import images_response
from v2flow_engine.serving.calls import Call, Caller, generation_call, json_edit_call
from v2flow_engine.serving.errors import ApiError, as_api_error, of_validation
from v2flow_engine.serving.protocol.images import EditBody, GenerationBody

if TYPE_CHECKING:
    from v2flow_engine.serving.server import Server

DEATHS = 3  # of an engine while one request was in it, after which the request is given up
RETRY_SECONDS = 1.0
EDITS = "/v1/images/edits"


async def answer_of(
    server: Server, endpoint: str, body: dict[str, Any], caller: Caller
) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer; waits for places, for engines that are started again, and for room in them."""
    deaths = 0
    while True:
        try:
            return 200, await _answered(server, endpoint, body, caller)
        except QueueFullError as error:
            await asyncio.sleep(error.retry_after)
        except Exception as error:
            deaths += isinstance(error, EngineDeadError)
            if not isinstance(error, EngineDeadError) or deaths == DEATHS:
                told = as_api_error(error)
                return told.status_code, told.body()
            await _until_ready(server)


async def _answered(server: Server, endpoint: str, body: dict[str, Any], caller: Caller) -> dict[str, Any]:
    asked = _checked(endpoint, json.dumps(body))
    if asked.stream:
        message = "A batch has no streams; leave stream out."
        raise ApiError(400, message, param="stream", code="invalid_value")
    # Before a place is there, no picture is decoded.
    async with server.admission.enter_from_batch(asked.n or 1):
        call = await _call(server, asked, caller)
        assert not call.num_partials
        async with aclosing(server.studio.pictures(call.job)) as pictures:
            answer = await images_response(pictures, call.style, call.job.size)
    return answer.model_dump(exclude_none=True)


def _checked(endpoint: str, body: str) -> GenerationBody | EditBody:
    try:
        return (EditBody if endpoint == EDITS else GenerationBody).model_validate_json(body)
    except ValidationError as error:
        raise of_validation(error.errors()) from error


async def _call(server: Server, asked: GenerationBody | EditBody, caller: Caller) -> Call:
    if isinstance(asked, EditBody):
        return await json_edit_call(server, asked, caller)
    return generation_call(server, asked, caller)


async def _until_ready(server: Server) -> None:
    while True:
        try:
            await server.backend.check()
        except EngineDeadError:
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return
