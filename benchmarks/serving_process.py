"""A server of `v2flow serve` for the length of a `with` block, seen from outside: address, memory, its processes.

Ends only what it started.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psutil

from benchmarks.processes import started_by
from v2flow_engine.errors import DataError

READY_SECONDS = 300.0
_ADDRESS = re.compile(r"v2flow: (http://\S+) will serve")


@dataclass
class ServerProcess:
    """A server that answers. pid: of its first process; None for one that was not started here.

    ready: seconds until both stages answered. peak_bytes: of all its processes together.
    """

    url: str
    pid: int | None = None
    ready: float | None = None
    peak_bytes: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def processes(self) -> list[psutil.Process]:
        """As of now."""
        if self.pid is None:
            return []
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def memory(self) -> int:
        """Bytes that its processes hold for themselves alone, shared pages by their shares."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                total += process.memory_full_info().pss
        self.peak_bytes = max(self.peak_bytes, total)
        return total

    def replicas(self, stage: str) -> list[int]:
        """Process ids of a stage's replicas on Ray."""
        if self.pid is None:
            return []
        return [process.pid for process in started_by(self.pid, f"ServeReplica:v2flow:{stage}")]

    def metric(self, name: str) -> dict[str, float]:
        """Label text -> value of each line of a metric at /metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^{re.escape(name)}(\{{[^}}]*\}})? (\S+)$", text, flags=re.MULTILINE)
        return {labels: float(value) for labels, value in found}


@contextlib.contextmanager
def serving(options: Sequence[str]) -> Iterator[ServerProcess]:
    """`v2flow serve` with these options on a free port. Raises `DataError` if it does not get ready."""
    command = [sys.executable, "-m", "v2flow_engine.cli", "serve", "--port", "0", *options]
    with tempfile.TemporaryFile("w+") as log:
        started = time.monotonic()
        process = subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL)
        try:
            server = ServerProcess(_wait(process, log, started), process.pid, time.monotonic() - started)
            watcher = threading.Thread(target=_watch, args=(server,), daemon=True)
            watcher.start()
            yield server
            server._stop.set()
            watcher.join()
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen, log: object, started: float) -> str:
    """The address, once `/ready` says yes."""
    url = ""
    while time.monotonic() - started < READY_SECONDS:
        log.seek(0)
        text = log.read()
        if process.poll() is not None:
            last = (text.strip().splitlines() or ["no message"])[-1]
            raise DataError(f"v2flow serve ended with status {process.returncode}: {last}")
        if not url and (match := _ADDRESS.search(text)):
            url = match[1]
        if url:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{url}/ready", timeout=30).close()
                return url
        time.sleep(0.2)
    raise DataError(f"v2flow serve was not ready within {READY_SECONDS:.0f} s")


def _watch(server: ServerProcess) -> None:
    while not server._stop.wait(2.0):
        server.memory()
