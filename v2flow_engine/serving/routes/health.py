"""`/health`: the process is alive. `/ready`: both stages answer."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from v2flow_engine.errors import EngineDeadError
from v2flow_engine.serving.errors import SERVER, ApiError
from v2flow_engine.serving.openapi import answers
from v2flow_engine.serving.server import Server, server_of

router = APIRouter()
Shared = Annotated[Server, Depends(server_of)]


class Health(BaseModel):
    """status: always "ok"; whatever is not, is an error."""

    status: Literal["ok"] = "ok"


@router.get("/health", responses=answers(Health, 405))
async def health() -> Health:
    """Whether the process is alive."""
    return Health()


@router.get("/ready", responses=answers(Health, 503))
async def ready(server: Shared) -> Health:
    """Whether pictures can be made now."""
    try:
        await server.backend.check()
    except EngineDeadError as error:
        message = "Not ready: a stage does not answer."
        raise ApiError(503, message, kind=SERVER, code="not_ready", headers={"retry-after": "2"}) from error
    return Health()
