"""A real server on 127.0.0.1 with the tiny model, one for all tests here; more of them over the same engines."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine_common import one_thread
from tests.serving.collector import Receiver
from tests.tiny_model import build_tiny_model
from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.serving.in_process import InProcessBackend
from v2flow_engine.serving.settings import MIB, Limits, ServerSettings
from v2flow_engine.serving.single_process import make_server

pytest.importorskip("vllm")
WAIT = 120.0
LIMITS = Limits(
    body_seconds=1.5,
    header_seconds=1.5,
    upload_body_bytes=4 * MIB,
    upload_bytes=MIB,
    upload_pixels=1_000_000,
    pictures=12,
    request_seconds=60,
)


@dataclass(frozen=True)
class Live:
    """A server that listens. backend: what is behind it."""

    url: str
    backend: Any
    settings: ServerSettings

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def in_flight(self) -> int:
        workers = (self.backend.token_worker, self.backend.decoder_worker)
        return sum(worker.stats.in_flight for worker in workers)

    def engines_are_idle(self) -> bool:
        """Whether neither engine holds a request, as seen from its own thread."""
        workers = (self.backend.token_worker, self.backend.decoder_worker)
        return not any(worker.call(lambda engine: engine.busy).result(WAIT) for worker in workers)


class KeptOpen:
    """A backend that outlives the app in front of it."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def close(self) -> None:
        pass


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_model(build_tiny_model(tmp_path_factory.mktemp("served") / "model"))


@pytest.fixture(scope="package")
def settings(folder: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> ServerSettings:
    return ServerSettings(
        model_dir=str(folder.path),
        image_dir=str(tmp_path_factory.mktemp("images")),
        max_num_seqs=8,
        limits=LIMITS,
        drain_seconds=20,
    )


@pytest.fixture(scope="package")
def backend(folder: ModelFolder, settings: ServerSettings) -> Iterator[InProcessBackend]:
    with one_thread():
        backend = InProcessBackend(folder, settings)
        yield backend
        for worker in (backend.token_worker, backend.decoder_worker):
            worker.close()


Serving = Callable[..., AbstractContextManager[Live]]


@pytest.fixture(scope="package")
def serving(folder: ModelFolder, settings: ServerSettings, backend: InProcessBackend) -> Serving:
    """A context manager: one more server over the same engines, with some settings changed."""

    @contextlib.contextmanager
    def start(**changes: Any) -> Iterator[Live]:
        own = dataclasses.replace(settings, **changes)
        server = make_server(folder, own, KeptOpen(backend))
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", backend, own)
        server.should_exit = True
        thread.join(WAIT)
        assert not thread.is_alive()

    return start


@pytest.fixture(scope="package")
def live(serving: Serving) -> Iterator[Live]:
    """The server that most tests use."""
    with serving() as live:
        until(lambda: httpx.get(f"{live.url}/ready", timeout=WAIT).status_code == 200)
        yield live


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A collector of traces."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=WAIT) as client:
        yield client


def until(condition: Callable[[], bool], wait: float = WAIT) -> None:
    end = time.monotonic() + wait
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def all_quiet(live: Live) -> None:
    """Wait until nothing is under way, then ask the engines themselves."""
    until(lambda: live.in_flight() == 0)
    assert live.engines_are_idle()


def files_in(path: str) -> list[Path]:
    return sorted(Path(path).iterdir())


@contextlib.contextmanager
def served(options: Iterable[object], log: Path, patience: float, **given: str) -> Iterator[subprocess.Popen]:
    """`v2flow serve` in a process of its own, when it is ready; ended afterwards.

    Args:
        log: gets all that it writes.
        patience: seconds until it is ready, and until it has ended before it is killed.
        given: to its environment.
    """
    command = [sys.executable, "-m", "v2flow_engine.cli", "serve", *map(str, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | given
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        until(lambda: process.poll() is not None or "ready after" in log.read_text(), patience)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        process.kill()
