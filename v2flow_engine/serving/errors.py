"""Whatever goes wrong -> an answer in OpenAI's shape: `{"error": {message, type, param, code}}` and its status.

The one place that says which error is whose fault. No message carries a path, a traceback or a caller's secret.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping, Sequence
from math import ceil
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from v2flow_engine.errors import DataError, EngineDeadError, QueueFullError, RequestError
from v2flow_engine.serving.connection import ClientLeftError

logger = logging.getLogger(__name__)
INVALID, SERVER = "invalid_request_error", "server_error"
# The names of the Python API that clients know by others.
API_NAMES = {"flow_steps": "num_inference_steps", "prompt_token_ids": "prompt"}
RETRY_DEAD_ENGINE = 5
BROKEN = "broken_status"


class ApiError(HTTPException):
    """An answer other than a picture."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.kind, self.param, self.code = kind, param, code

    def body(self) -> dict[str, Any]:
        """The JSON of the answer; also what an event stream carries when it breaks off."""
        return {"error": {"message": self.detail, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), self.status_code, dict(self.headers or {}))


def file_too_large(param: str, most: int) -> ApiError:
    """For a file or picture of too many bytes, however it was sent."""
    return ApiError(413, f"{param} is larger than {most} bytes.", param=param, code="file_too_large")


def as_api_error(error: BaseException) -> ApiError:
    """Any exception as what the caller is told."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        param = API_NAMES.get(error.param or "", error.param)
        return ApiError(400, _clear(error, error.param), param=_first_word(param))
    if isinstance(error, DataError):
        return ApiError(400, str(error), code="invalid_image", param="image")
    if isinstance(error, QueueFullError):
        return _busy(error)
    if isinstance(error, EngineDeadError):
        logger.error("an engine is dead: %s", error)
        return ApiError(
            503,
            "The model stopped working and is being restarted. Try again.",
            kind=SERVER,
            code="engine_unavailable",
            headers={"retry-after": str(RETRY_DEAD_ENGINE)},
        )
    if isinstance(error, TimeoutError):
        message = "The request was not finished in time and has been given up."
        headers = {"x-should-retry": "false"}
        return ApiError(504, message, kind=SERVER, code="deadline_exceeded", headers=headers)
    if isinstance(error, (ClientLeftError, ClientDisconnect)):
        return ApiError(499, "The caller left.")
    if isinstance(error, HTTPException):
        return _of_http(error)
    logger.error("an error of the server's own", exc_info=error)
    return ApiError(500, "The server had an error of its own.", kind=SERVER, code="internal_error")


def note_broken_answer(state: MutableMapping[str, Any], error: ApiError) -> None:
    """Keep, in a request's state, which status the error would have had if the answer had not begun with its own."""
    state[BROKEN] = error.status_code


def install_error_handlers(app: FastAPI) -> None:
    """Make an app answer what its routes raise in OpenAI's shape; what is not expected is left to `AnswerErrors`."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, RequestValidationError):
            return of_validation(error.errors()).response()
        return as_api_error(error).response()

    for kind in (
        HTTPException,
        RequestValidationError,
        RequestError,
        DataError,
        QueueFullError,
        EngineDeadError,
        TimeoutError,
        ClientLeftError,
    ):
        app.add_exception_handler(kind, answer)


def of_validation(errors: Sequence[Any]) -> ApiError:
    """What pydantic found -> the first of it, as OpenAI would say it. Values are not repeated: they may be large."""
    first = errors[0]
    path = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    kind = first["type"]
    if kind == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json")
    param = ".".join(path) or None
    if kind == "missing":
        message = f"Missing required parameter: {param!r}." if param else "The body is missing."
        return ApiError(400, message, param=param, code="missing_required_parameter")
    message = f"Invalid value for {param!r}: {first['msg']}." if param else f"{first['msg']}."
    return ApiError(400, message, param=param, code="invalid_value")


def _of_http(error: HTTPException) -> ApiError:
    told = {
        404: ("There is nothing at this address.", "not_found"),
        405: ("This address does not take this method.", "method_not_allowed"),
    }
    message, code = told.get(error.status_code, (str(error.detail), None))
    kind = SERVER if error.status_code >= 500 else INVALID
    return ApiError(error.status_code, message, kind=kind, code=code, headers=dict(error.headers or {}))


def _busy(error: QueueFullError) -> ApiError:
    return ApiError(
        429,
        "The server is busy: too many pictures are under way. Try again later.",
        kind="rate_limit_error",
        code="queue_full",
        headers={"retry-after": str(max(1, ceil(error.retry_after)))},
    )


def _clear(error: RequestError, name: str | None) -> str:
    """The message with the parameter under the name that the caller gave it."""
    message = str(error)
    if name in API_NAMES and message.startswith(name):
        message = API_NAMES[name] + message[len(name) :]
    return message


def _first_word(param: str | None) -> str | None:
    return param.split()[0] if param else None
