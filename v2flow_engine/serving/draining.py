"""An app that is about to end: what is under way is finished, what comes later is told to come again.

For servers whose listener cannot be closed first, as Ray Serve's proxy.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from v2flow_engine.serving.errors import SERVER, ApiError

READY = "/ready"
RETRY_SECONDS = 5


class Gate:
    """Counts requests, and may be closed. Of one process; all calls from its event loop."""

    def __init__(self) -> None:
        self.closed, self.under_way = False, 0


class Gated:
    """The innermost middleware: refusals have been logged and counted like any other answer.

    When the gate is closed, what would make pictures is refused, and the server is not ready; the rest answers on.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app, self.gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.gate.closed and (scope["method"] == "POST" or scope["path"] == READY):
            await _refusal().response()(scope, receive, send)
            return
        self.gate.under_way += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.gate.under_way -= 1


def _refusal() -> ApiError:
    return ApiError(
        503,
        "The server is shutting down. Try again.",
        kind=SERVER,
        code="not_ready",
        headers={"retry-after": str(RETRY_SECONDS)},
    )
