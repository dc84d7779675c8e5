"""What FastAPI cannot tell by itself: bodies that are read by hand, error answers, and the model's own limits."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from v2flow_engine import __version__
from v2flow_engine.serving.protocol.common import ErrorBody
from v2flow_engine.serving.protocol.files import FileFields
from v2flow_engine.serving.protocol.images import EditBody, EditFields, VariationFields

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder

ERRORS = (400, 401, 404, 405, 408, 413, 429, 500, 503, 504)
PICTURE = {"type": "string", "format": "binary", "description": "PNG, WebP or JPEG"}


def answers(
    success: type[BaseModel] | None,
    *errors: int,
    stream: bool = False,
    content: dict[str, Any] | None = None,
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: its success and its errors, all of `ERRORS` unless some are named."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
        for status in sorted({401, 405, *errors} if errors else ERRORS)
    }
    succeeded: dict[str, Any] = {"description": "Success"}
    if success is not None:
        succeeded["model"] = success
    if stream:
        succeeded["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    if content is not None:
        succeeded["content"] = content
    return {200: succeeded, **told}


def _inlined(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema without references."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolve(definitions[part["$ref"].rpartition("/")[2]])
            return {name: resolve(each) for name, each in part.items()}
        return [resolve(each) for each in part] if isinstance(part, list) else part

    return resolve(schema)


def _form(model: type[BaseModel], kind: dict[str, Any] = PICTURE, **files: bool) -> dict[str, Any]:
    """A model's fields beside files, each needed or not, as a multipart body."""
    schema = _inlined(model)
    schema["properties"] |= dict.fromkeys(files, kind)
    schema["required"] = [*schema.get("required", []), *(name for name, needed in files.items() if needed)]
    return {"schema": schema}


EDIT_REQUEST = {
    "required": True,
    "content": {
        "multipart/form-data": _form(EditFields, image=True, mask=False),
        "application/json": {"schema": _inlined(EditBody)},
    },
}
FILE_REQUEST = {
    "required": True,
    "content": {"multipart/form-data": _form(FileFields, {"type": "string", "format": "binary"}, file=True)},
}
VARIATION_REQUEST = {
    "required": True,
    "content": {"multipart/form-data": _form(VariationFields, image=True)},
}


def describe(app: FastAPI, folder: ModelFolder, secured: bool) -> Callable[[], dict[str, Any]]:
    """The app's OpenAPI document, made once: with the model's sizes and, where keys are needed, that they are."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title="v2flow", version=__version__, routes=app.routes)
            sizes = ["auto", *sorted(folder.grids)]
            _walk(schema, sizes)
            schema.get("components", {}).get("schemas", {}).pop("HTTPValidationError", None)
            schema.get("components", {}).get("schemas", {}).pop("ValidationError", None)
            if secured:
                schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                for path, operations in schema["paths"].items():
                    if path.startswith("/v1/") and not path.startswith("/v1/images/files/"):
                        for operation in operations.values():
                            operation["security"] = [{"key": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    return document


def _walk(part: Any, sizes: list[str]) -> None:
    """In place: a request's `size` is one of the model's; FastAPI's own 422 never happens here."""
    if isinstance(part, list):
        for each in part:
            _walk(each, sizes)
    elif isinstance(part, dict):
        part.pop("422", None)
        size = part.get("properties", {}).get("size") if isinstance(part.get("properties"), dict) else None
        if isinstance(size, dict) and "anyOf" in size:
            size["anyOf"] = [{"type": "string", "enum": sizes}, {"type": "null"}]
        for each in part.values():
            _walk(each, sizes)
