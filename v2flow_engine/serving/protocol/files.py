"""`/v1/files`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from v2flow_engine.serving.protocol.common import Body

HOUR, DAY = 3600, 86_400
Purpose = Literal["batch", "batch_output", "vision", "user_data"]
ExpirySeconds = Annotated[int, Field(ge=HOUR, le=30 * DAY)]


class ExpiresAfter(Body):
    """When a file goes, counted from when it came."""

    anchor: Literal["created_at"]
    seconds: ExpirySeconds


class FileFields(Body):
    """`POST /v1/files` without the file. batch: the lines of a batch; vision, user_data: a picture for edits."""

    model_config = ConfigDict(validate_by_alias=True, validate_by_name=False)
    purpose: Literal["batch", "vision", "user_data"]
    anchor: Literal["created_at"] | None = Field(None, alias="expires_after[anchor]")
    seconds: ExpirySeconds | None = Field(None, alias="expires_after[seconds]")


class FileObject(BaseModel):
    """bytes: its size. expires_at: when it goes."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"


class FileList(BaseModel):
    """A page of them."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """It is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
