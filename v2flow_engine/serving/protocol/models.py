"""`/v1/models`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelCard(BaseModel):
    """One model. sizes: that it draws, an extension; created: when its folder was written."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "v2flow"
    sizes: list[str]


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
