"""Settings -> a server in this process until a signal ends it; what is under way is finished first."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from v2flow_engine.errors import EngineDeadError
from v2flow_engine.serving.app import create_app
from v2flow_engine.serving.cores import share_cores
from v2flow_engine.serving.head_timeout import head_timeout_protocol
from v2flow_engine.serving.in_process import InProcessBackend
from v2flow_engine.serving.logs import log_to_stderr

if TYPE_CHECKING:
    import uvicorn

    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.serving.backend import Backend
    from v2flow_engine.serving.settings import ServerSettings

WATCH_SECONDS = 1.0


def make_server(folder: ModelFolder, settings: ServerSettings, backend: Backend) -> uvicorn.Server:
    """A server of the app over a backend, which it closes at its end."""
    import uvicorn

    config = uvicorn.Config(
        create_app(folder, backend, settings),
        http=head_timeout_protocol(settings.limits.header_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_seconds),
    )
    return uvicorn.Server(config)


class _EndedError(BaseException):
    """A signal came before there was a server to end. No `Exception`, lest an import that fails softly swallows it."""


class _Ending:
    """Makes signals end the server, or what goes before it."""

    def __init__(self) -> None:
        self.server: uvicorn.Server | None = None
        for ending in (signal.SIGINT, signal.SIGTERM):
            # While uvicorn serves it catches them itself; when all is done it raises them again, and they come here.
            signal.signal(ending, self._end)

    def _end(self, *_: object) -> None:
        if self.server is None:
            raise _EndedError
        self.server.should_exit = True


def serve(folder: ModelFolder, settings: ServerSettings, listener: socket.socket) -> tuple[int, bool]:
    """Returns 0 after a signal or 1 if an engine did not start, and whether its threads have ended.

    One in which an engine is just being made cannot be ended; its native code would abort the interpreter's own end.

    Args:
        listener: a bound socket.
    """
    log_to_stderr()
    ending = _Ending()
    try:
        share_cores()
        backend = InProcessBackend(folder, settings)
        ending.server = make_server(folder, settings, backend)
    except _EndedError:
        return 0, False
    code = asyncio.run(_run(ending.server, backend, listener))
    return code, not backend.starting


async def _run(server: uvicorn.Server, backend: InProcessBackend, listener: socket.socket) -> int:
    begun = time.monotonic()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    watching = asyncio.create_task(_watch(backend, begun))
    await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
    failed = watching.done()
    if failed:
        print(f"v2flow: {watching.result()}", file=sys.stderr, flush=True)
        server.should_exit = True
    await serving
    watching.cancel()
    return 1 if failed else 0


async def _watch(backend: InProcessBackend, begun: float) -> BaseException:
    """Say when pictures can be made; returns why an engine has given up, at its start or later.

    Without one of them the server could only refuse: it ends, for whatever supervises it to start another.
    """
    ready = False
    while True:
        for worker in (backend.token_worker, backend.decoder_worker):
            if worker.given_up is not None:
                return worker.given_up
        if not ready:
            with suppress(EngineDeadError):  # it is being started again, or closed
                await backend.check()
                ready = True
                print(f"v2flow: ready after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        await asyncio.sleep(WATCH_SECONDS)
