"""`/v1/batches`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from v2flow_engine.serving.protocol.common import Body, Short
from v2flow_engine.serving.protocol.files import ExpiresAfter

Endpoint = Literal["/v1/images/generations", "/v1/images/edits"]
Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class BatchBody(Body):
    """`POST /v1/batches`. completion_window: OpenAI knows "24h" only; here 1 to 168 hours."""

    input_file_id: Short
    endpoint: Endpoint
    completion_window: Annotated[str, Field(pattern=r"^([1-9]|[1-9][0-9]|1[0-5][0-9]|16[0-8])h$")]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(BaseModel):
    """What is wrong with the input. line: counted from 1."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(BaseModel):
    """All that was found, the first hundred."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    """Of the batch's lines. Those that were given up count as neither completed nor failed."""

    total: int
    completed: int
    failed: int


class BatchObject(BaseModel):
    """A batch as it is now."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: Endpoint
    model: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    """A page of them."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
