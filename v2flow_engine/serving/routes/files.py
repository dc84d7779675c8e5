"""`/v1/files`: inputs of batches, pictures for edits, and results of batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, BinaryIO, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from v2flow_engine.serving.errors import ApiError
from v2flow_engine.serving.file_store import FileStore, StorageFullError, StoredFile
from v2flow_engine.serving.forms import read_upload
from v2flow_engine.serving.openapi import FILE_REQUEST, answers
from v2flow_engine.serving.paging import page
from v2flow_engine.serving.protocol.common import Short
from v2flow_engine.serving.protocol.files import FileDeleted, FileFields, FileList, FileObject
from v2flow_engine.serving.server import Server, caller_of, server_of

router = APIRouter()
Shared = Annotated[Server, Depends(server_of)]
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
CHUNK = 2**16


@router.post(
    "/v1/files",
    responses=answers(FileObject, 400, 408, 413, 429),
    openapi_extra={"requestBody": FILE_REQUEST},
)
async def upload(request: Request, server: Shared) -> FileObject:
    """Keep a file."""
    async with read_upload(request, FileFields, server.limits.file_bytes) as (fields, file):
        if (fields.anchor is None) != (fields.seconds is None):
            message = "expires_after needs both anchor and seconds."
            raise ApiError(400, message, param="expires_after", code="invalid_value")
        try:
            stored = await asyncio.to_thread(
                server.files.put,
                file.file,
                file.size or 0,
                filename=file.filename or "file",
                purpose=fields.purpose,
                owner=caller_of(request).key,
                seconds=fields.seconds,
            )
        except StorageFullError as error:
            message = "The server keeps as many files as it may; delete some first."
            raise ApiError(413, message, param="file", code="storage_full") from error
    return _shown(stored)


@router.get("/v1/files", responses=answers(FileList, 400, 429))
async def files(
    request: Request,
    server: Shared,
    after: Annotated[Short | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[Short | None, Query()] = None,
) -> FileList:
    """The caller's files, the newest first unless told otherwise."""
    found = await asyncio.to_thread(server.files.list, caller_of(request).key)
    found = [file for file in found if purpose in (None, file.purpose)]
    shown, about = page(found if order == "desc" else found[::-1], after, limit)
    return FileList(data=[_shown(file) for file in shown], **about)


@router.get("/v1/files/{file_id}", responses=answers(FileObject, 404, 429))
async def file(file_id: str, request: Request, server: Shared) -> FileObject:
    """What is known of a file."""
    return _shown(await _found(server.files, file_id, request))


@router.delete("/v1/files/{file_id}", responses=answers(FileDeleted, 404, 429))
async def delete(file_id: str, request: Request, server: Shared) -> FileDeleted:
    """Forget a file. A batch that was made with it goes on."""
    if not await asyncio.to_thread(server.files.delete, file_id, caller_of(request).key):
        raise _unknown()
    return FileDeleted(id=file_id)


@router.get(
    "/v1/files/{file_id}/content",
    response_class=StreamingResponse,
    responses=answers(None, 404, 429, content=BINARY),
)
async def content(file_id: str, request: Request, server: Shared) -> StreamingResponse:
    """The bytes of a file."""
    found = await _found(server.files, file_id, request)
    opened = await asyncio.to_thread(server.files.open, found)
    if opened is None:
        raise _unknown()
    headers = {
        "content-length": str(found.bytes),
        "content-disposition": "attachment",
        "x-content-type-options": "nosniff",
    }
    return StreamingResponse(_chunks(opened), media_type="application/octet-stream", headers=headers)


async def _chunks(opened: BinaryIO) -> AsyncIterator[bytes]:
    with opened:
        while chunk := await asyncio.to_thread(opened.read, CHUNK):
            yield chunk


async def _found(store: FileStore, file_id: str, request: Request) -> StoredFile:
    found = await asyncio.to_thread(store.get, file_id, caller_of(request).key)
    if found is None:
        raise _unknown()
    return found


def _unknown() -> ApiError:
    return ApiError(404, "There is no file of this id.", param="file_id", code="file_not_found")


def _shown(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created),
        expires_at=int(file.expires),
        filename=file.filename,
        purpose=file.purpose,
    )
