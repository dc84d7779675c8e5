"""A server -> its FastAPI app. Starts nothing but what the backend it is given has started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from v2flow_engine import __version__
from v2flow_engine.serving.answer_errors import AnswerErrors
from v2flow_engine.serving.errors import install_error_handlers
from v2flow_engine.serving.metrics import CountRequests, Metrics
from v2flow_engine.serving.metrics import router as metrics
from v2flow_engine.serving.middleware import BodyLimit, Guard, RequestContext
from v2flow_engine.serving.openapi import describe
from v2flow_engine.serving.playground import router as playground
from v2flow_engine.serving.routes import batches, chat, files, health, images, models
from v2flow_engine.serving.server import Server
from v2flow_engine.serving.trace_requests import TraceRequests

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.serving.backend import Backend
    from v2flow_engine.serving.settings import ServerSettings

ROUTERS = (
    images.router,
    chat.router,
    files.router,
    batches.router,
    models.router,
    health.router,
    playground,
    metrics,
)


def create_app(
    folder: ModelFolder,
    backend: Backend,
    settings: ServerSettings,
    *,
    replica: str = "0",
    outer_ids: bool = False,
) -> FastAPI:
    """The app. From start to end it works on batches; at its end it closes the backend.

    Args:
        replica: of the ingress, for the metrics.
        outer_ids: whatever is in front gives requests and answers their ids, and this one takes them over.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with app.state.server.runner.running():
            yield
        await backend.close()
        await asyncio.to_thread(app.state.server.tracing.flush)

    app = FastAPI(title="v2flow", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.metrics = Metrics(replica)
    app.state.server = Server(folder, backend, settings, app.state.metrics)
    for router in ROUTERS:
        app.include_router(router)
    install_error_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limits=settings.limits)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(AnswerErrors)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            # Whatever a page asks for: OpenAI's clients send a dozen headers of their own, and without cookies none of
            # them lets a page do more than its origin may.
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "x-should-retry", "openai-processing-ms"],
        )
    app.add_middleware(CountRequests, metrics=app.state.metrics)
    if app.state.server.tracing.on:
        app.add_middleware(TraceRequests, tracing=app.state.server.tracing)
    app.add_middleware(RequestContext, outer_ids=outer_ids)
    app.openapi = describe(app, folder, bool(settings.key_digests))
    return app
