"""A multipart body -> its text fields, checked by a pydantic model, and the bytes of its files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from v2flow_engine.serving.errors import ApiError, file_too_large, of_validation
from v2flow_engine.serving.protocol.images import MAX_EDITED
from v2flow_engine.serving.settings import MIB, Limits

MAX_FIELDS = 64
Fields = TypeVar("Fields", bound=BaseModel)


@dataclass(frozen=True)
class Form:
    """texts: the last one of each name. files: all of each name, `image[]` counted as `image`."""

    texts: dict[str, str]
    files: dict[str, list[bytes]]

    def fields(self, model: type[Fields]) -> Fields:
        """The texts as a model's fields, numbers and booleans read from them; raises `ApiError`.

        An empty text stands for a field that was left out, except for the prompt.
        """
        given = {name: text for name, text in self.texts.items() if text or name == "prompt"}
        try:
            return model.model_validate_strings(given)
        except ValidationError as error:
            raise of_validation(error.errors()) from error

    def file(self, name: str, most: int = 1) -> bytes | None:
        """The only file of this name, or None; raises `ApiError` for several, or for a text in its place."""
        if name in self.texts:
            raise ApiError(400, f"{name} must be a file, got text.", param=name, code="invalid_value")
        found = self.files.get(name, [])
        if len(found) > most:
            message = f"{name}: this model takes one picture, got {len(found)}."
            raise ApiError(400, message, param=name, code="too_many_images")
        return found[0] if found else None


async def read_form(request: Request, limits: Limits) -> Form:
    """Read a multipart body. Raises `ApiError` if it is malformed, or a file in it is too large."""
    texts: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    async with request.form(max_files=MAX_EDITED + 1, max_fields=MAX_FIELDS, max_part_size=MIB) as form:
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if not isinstance(value, UploadFile):
                texts[name] = value
                continue
            if (value.size or 0) > limits.upload_bytes:
                raise file_too_large(name, limits.upload_bytes)
            files.setdefault(name, []).append(await value.read())
    return Form(texts, files)


@asynccontextmanager
async def read_upload(
    request: Request, model: type[Fields], most_bytes: int
) -> AsyncIterator[tuple[Fields, UploadFile]]:
    """The fields of a multipart body and its one file, `file`, which may lie on the disk. Raises `ApiError`."""
    if not is_multipart(request):
        raise ApiError(400, "The body must be multipart/form-data.", code="invalid_value")
    async with request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MIB) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            message = "Missing required parameter: 'file', a file."
            raise ApiError(400, message, param="file", code="missing_required_parameter")
        if (file.size or 0) > most_bytes:
            raise file_too_large("file", most_bytes)
        texts = {name: value for name, value in form.multi_items() if isinstance(value, str) and value}
        yield Form(texts, {}).fields(model), file


def is_multipart(request: Request) -> bool:
    """What the request says of its body."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")
