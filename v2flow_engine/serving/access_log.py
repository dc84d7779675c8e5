"""A finished request -> one line on the log: id, method, path, status, seconds. No prompt, no key."""

from __future__ import annotations

import logging
from typing import Any

from starlette.types import Scope

from v2flow_engine.serving.errors import BROKEN
from v2flow_engine.serving.logs import log_fields

logger = logging.getLogger("v2flow.access")


def log_request(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    """status 0: the caller left before there was an answer.

    An answer that ended in an error after it had begun well has the error's status, too.
    """
    fields: dict[str, Any] = {
        "request_id": request_id,
        "method": scope["method"],
        "path": _path(scope),
        "status": status,
        "seconds": round(seconds, 4),
    }
    if BROKEN in scope["state"]:
        fields[BROKEN] = scope["state"][BROKEN]
    log_fields(logger, **fields)


def _path(scope: Scope) -> str:
    """The route's own path where there is one: it holds no secret, as the address of a picture does."""
    route = scope.get("route")
    return getattr(route, "path", None) or "unknown"
