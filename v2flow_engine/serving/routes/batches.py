"""`/v1/batches`: made, looked at and cancelled here; worked on by `batches.runner`."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from v2flow_engine.serving.batches.store import CANCELLABLE, Batch
from v2flow_engine.serving.errors import ApiError
from v2flow_engine.serving.openapi import answers
from v2flow_engine.serving.paging import page
from v2flow_engine.serving.protocol.batches import (
    BatchBody,
    BatchError,
    BatchErrors,
    BatchList,
    BatchObject,
    RequestCounts,
)
from v2flow_engine.serving.protocol.common import Short
from v2flow_engine.serving.protocol.files import HOUR
from v2flow_engine.serving.server import Server, caller_of, server_of

router = APIRouter()
Shared = Annotated[Server, Depends(server_of)]
RETRY_SECONDS = 60


@router.post("/v1/batches", responses=answers(BatchObject, 400, 404, 408, 413, 429))
async def create(body: BatchBody, request: Request, server: Shared) -> BatchObject:
    """Requests in a file, to be answered when there is time. What is wrong with them, the batch will say."""
    caller = caller_of(request)
    file = await asyncio.to_thread(server.files.get, body.input_file_id, caller.key)
    if file is None:
        raise _no_input()
    if file.purpose != "batch":
        message = f"The file's purpose is {file.purpose}, not batch."
        raise ApiError(400, message, param="input_file_id", code="invalid_value")
    if len(await asyncio.to_thread(server.batches.todo)) >= server.limits.batches:
        message = f"{server.limits.batches} batches are under way, the most there may be."
        headers = {"retry-after": str(RETRY_SECONDS)}
        raise ApiError(429, message, kind="rate_limit_error", code="too_many_batches", headers=headers)
    described = await asyncio.to_thread(lambda: server.described)
    batch = Batch(
        endpoint=body.endpoint,
        input_file_id=file.id,
        completion_window=body.completion_window,
        expires=time.time() + HOUR * int(body.completion_window[:-1]),
        owner=caller.key,
        base_url=caller.base_url,
        model=server.names[0],
        model_digest=described["model_digest"],
        metadata=body.metadata,
        output_seconds=body.output_expires_after.seconds if body.output_expires_after else None,
    )
    try:
        await asyncio.to_thread(server.batches.create, batch, server.files, file)
    except FileNotFoundError as error:
        raise _no_input() from error
    server.runner.look()
    return _shown(batch)


@router.get("/v1/batches", responses=answers(BatchList, 400, 429))
async def batches(
    request: Request,
    server: Shared,
    after: Annotated[Short | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchList:
    """The caller's batches, the newest first."""
    found = await asyncio.to_thread(server.batches.list, caller_of(request).key)
    shown, about = page(found, after, limit)
    return BatchList(data=[_shown(batch) for batch in shown], **about)


@router.get("/v1/batches/{batch_id}", responses=answers(BatchObject, 404, 429))
async def batch(batch_id: str, request: Request, server: Shared) -> BatchObject:
    """A batch as it is now."""
    return _shown(await _found(server, batch_id, request))


@router.post("/v1/batches/{batch_id}/cancel", responses=answers(BatchObject, 400, 404, 429))
async def cancel(batch_id: str, request: Request, server: Shared) -> BatchObject:
    """End a batch. What has been answered by then is in its files."""
    found = await _found(server, batch_id, request)
    if found.status in CANCELLABLE:
        await asyncio.to_thread(server.batches.cancel, batch_id)
        found = await _found(server, batch_id, request)
    elif found.status not in ("cancelling", "cancelled"):
        message = f"A batch that is {found.status} cannot be cancelled."
        raise ApiError(400, message, param="batch_id", code="invalid_value")
    return _shown(found)


async def _found(server: Server, batch_id: str, request: Request) -> Batch:
    found = await asyncio.to_thread(server.batches.get, batch_id, caller_of(request).key)
    if found is None:
        raise ApiError(404, "There is no batch of this id.", param="batch_id", code="batch_not_found")
    return found


def _no_input() -> ApiError:
    return ApiError(404, "There is no file of this id.", param="input_file_id", code="file_not_found")


def _shown(batch: Batch) -> BatchObject:
    def at(status: str) -> int | None:
        return int(batch.times[status]) if status in batch.times else None

    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        errors=BatchErrors(data=[BatchError(**error) for error in batch.errors]) if batch.errors else None,
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=batch.status,
        output_file_id=batch.output_file_id if batch.is_over else None,
        error_file_id=batch.error_file_id if batch.is_over else None,
        created_at=int(batch.created),
        expires_at=int(batch.expires),
        **{f"{name}_at": at(name) for name in TIMES},
        request_counts=RequestCounts(total=batch.total, completed=batch.completed, failed=batch.failed),
        metadata=batch.metadata,
    )


TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
