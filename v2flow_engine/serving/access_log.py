"""A finished request -> one line of JSON on the log: id, method, path, status, seconds. No prompt, no key."""

from __future__ import annotations

import json
import logging

from starlette.types import Scope

logger = logging.getLogger("v2flow.access")


def log_request(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    """status 0: the caller left before there was an answer."""
    fields = {
        "request_id": request_id,
        "method": scope["method"],
        "path": _path(scope),
        "status": status,
        "seconds": round(seconds, 4),
    }
    logger.info(json.dumps(fields))


def _path(scope: Scope) -> str:
    """The route's own path where there is one: it holds no secret, as the address of a picture does."""
    route = scope.get("route")
    return getattr(route, "path", None) or "unknown"
