"""Around every request: its id, its caller's key and rate, and a body that is neither too large nor too slow.

Plain ASGI: nothing is buffered, and routes see the connection as it is.
"""

from __future__ import annotations

import asyncio
import time
from math import ceil

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from v2flow_engine.errors import QueueFullError
from v2flow_engine.serving.access_log import log_request
from v2flow_engine.serving.errors import ApiError
from v2flow_engine.serving.keys import Keys, RateLimit
from v2flow_engine.serving.logs import current_request, new_request_id
from v2flow_engine.serving.settings import KIB, Limits, ServerSettings

REQUEST_ID = "x-request-id"
MAX_ID = 128  # characters of one that comes from outside, in the log
PROTECTED = "/v1/"
# Whoever has one of these addresses may have the picture: nobody can guess it.
OPEN = ("/v1/images/files/",)
# A chat's earlier answers, which clients send back, hold pictures, too.
WITH_PICTURES = ("/v1/images/edits", "/v1/images/variations", "/v1/chat/completions")
FILES = "/v1/files"
FORM_BYTES = 64 * KIB  # of a form, around the file in it


class RequestContext:
    """Gives every request an id, which its answer carries, and writes one line about it when it is done.

    Args:
        outer_ids: a proxy in front has given it one, and adds it to the answer itself.
    """

    def __init__(self, app: ASGIApp, outer_ids: bool = False) -> None:
        self.app, self.outer_ids = app, outer_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        outer = Headers(scope=scope).get(REQUEST_ID, "")[:MAX_ID] if self.outer_ids else ""
        request_id = outer or new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        begun, status, token = time.perf_counter(), 0, current_request.set(request_id)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if not outer:
                    headers[REQUEST_ID] = request_id
                headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - begun)))
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            log_request(scope, request_id, status, time.perf_counter() - begun)
            current_request.reset(token)


class Guard:
    """Lets in who has a key and has not called too often."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app = app
        self._keys = Keys(settings.key_digests)
        per_minute = settings.requests_per_minute
        self._rate = RateLimit(per_minute) if per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        path = scope.get("path", "")
        protected = scope["type"] == "http" and path.startswith(PROTECTED) and not path.startswith(OPEN)
        if protected and scope["method"] != "OPTIONS":
            try:
                self._admit(scope)
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        caller: str | None = (scope.get("client") or ("unknown",))[0]
        if self._keys.required:
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            caller = self._keys.caller(key.strip()) if scheme.lower() == "bearer" else None
            if caller is None:
                message = (
                    "Incorrect API key provided."
                    if key
                    else "No API key provided (Authorization: Bearer KEY)."
                )
                headers = {"www-authenticate": "Bearer"}
                raise ApiError(
                    401, message, kind="authentication_error", code="invalid_api_key", headers=headers
                )
            scope.setdefault("state", {})["caller"] = caller
        if self._rate is None or caller is None:
            return
        try:
            self._rate.count(caller)
        except QueueFullError as error:
            raise ApiError(
                429,
                f"Too many requests: {error}.",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"retry-after": str(max(1, ceil(error.retry_after)))},
            ) from error


class BodyLimit:
    """Ends a request whose body is too large (413) or takes too long to arrive (408)."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self._most(scope["path"])
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > most):
            await self._too_large(most).response()(scope, receive, send)
            return
        end = time.monotonic() + self.limits.body_seconds
        got, complete = 0, False

        async def bounded_receive() -> Message:
            nonlocal got, complete
            if complete:  # from here on, it waits for the end of the connection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except TimeoutError as error:
                raise ApiError(408, "The body did not arrive in time.", code="body_timeout") from error
            got += len(message.get("body", b""))
            complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
            if got > most:
                raise self._too_large(most)
            return message

        await self.app(scope, bounded_receive, send)

    def _most(self, path: str) -> int:
        if path.startswith(FILES):
            return self.limits.file_bytes + FORM_BYTES
        return self.limits.upload_body_bytes if path.startswith(WITH_PICTURES) else self.limits.body_bytes

    def _too_large(self, most: int) -> ApiError:
        return ApiError(413, f"The body is larger than {most} bytes.", code="body_too_large")
