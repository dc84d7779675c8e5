"""A server of `v2flow serve` for the length of a `with` block, seen from outside: address, memory, its processes.

Ends only what it started. Reads /proc, so it needs Linux.
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
from pathlib import Path

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

    def processes(self) -> list[int]:
        """Their ids, as of now."""
        return [] if self.pid is None else tree(self.pid)

    def memory(self) -> int:
        """Bytes that its processes hold for themselves alone, shared pages by their shares."""
        total = sum(_proportional_bytes(pid) for pid in self.processes())
        self.peak_bytes = max(self.peak_bytes, total)
        return total

    def replicas(self, stage: str) -> list[int]:
        """Process ids of a stage's replicas on Ray."""
        name = f"ServeReplica:v2flow:{stage}"
        return [pid for pid in self.processes() if name in _command(pid)]

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


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(path.name))
    found, waiting = [], [pid]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += children.get(each, [])
    return found


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


def _proportional_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
