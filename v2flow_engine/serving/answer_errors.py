"""What no handler of the app has caught -> an answer, inside of all that counts and logs answers.

Starlette's own place for it is outside of every middleware: such an answer would have no id and be counted as none.
"""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from v2flow_engine.serving.errors import as_api_error, note_broken_answer


class AnswerErrors:
    """Answers every exception in OpenAI's shape; an answer that has begun is broken off, and noted as that."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except Exception as error:
            if not begun:
                await as_api_error(error).response()(scope, receive, send)
                return
            if not isinstance(error, ClientDisconnect):
                note_broken_answer(scope["state"], as_api_error(error))
            raise
