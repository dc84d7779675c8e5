"""`/v1/models`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from v2flow_engine.serving.openapi import answers
from v2flow_engine.serving.protocol.models import ModelCard, ModelList
from v2flow_engine.serving.server import Server, server_of

router = APIRouter()
Shared = Annotated[Server, Depends(server_of)]


@router.get("/v1/models", responses=answers(ModelList, 429))
async def models(server: Shared) -> ModelList:
    """The model under every name that it has here."""
    return ModelList(data=[_card(server, name) for name in server.names])


@router.get("/v1/models/{name:path}", responses=answers(ModelCard, 404, 429))
async def model(name: str, server: Shared) -> ModelCard:
    """One of them; its name may have slashes."""
    server.check_model(name)
    return _card(server, name)


def _card(server: Server, name: str) -> ModelCard:
    created = int((server.folder.path / "config.json").stat().st_mtime)
    return ModelCard(id=name, created=created, sizes=sorted(server.folder.grids))
