"""Models behind URLs: one copy for each version, whole or not there, whoever asks and whatever is killed."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from v2flow_engine.errors import ModelFolderError
from v2flow_engine.generation.model_files import model_digest
from v2flow_engine.offline.model_source import fetch_model, open_model_anywhere, open_same_model

FETCH = (
    "import sys; from v2flow_engine.offline.model_source import fetch_model; print(fetch_model(sys.argv[1]))"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of copies, empty."""
    monkeypatch.setenv("V2FLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def copies(cache: Path) -> list[Path]:
    """Whole copies in the cache."""
    return sorted(path for path in cache.iterdir() if path.is_dir() and path.suffix != ".building")


def test_a_changed_model_is_another_copy(model_dir: Path, cache: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(model_dir), "/models/tiny", recursive=True)
    folder = open_model_anywhere("memory://models/tiny")
    assert folder.path.parent == cache
    assert model_digest(folder) == model_digest(open_model_anywhere(str(model_dir)))
    assert fetch_model("memory://models/tiny") == folder.path
    memory.pipe("/models/tiny/note.json", b"{}")
    assert fetch_model("memory://models/tiny") != folder.path
    assert len(copies(cache)) == 2
    with pytest.raises(ModelFolderError, match=r"memory://models/none: (no such folder|cannot be read)"):
        fetch_model("memory://models/none")


def test_a_node_with_another_model_says_so(model_dir: Path) -> None:
    digest = model_digest(open_same_model(str(model_dir), None))
    assert open_same_model(str(model_dir), digest).path == model_dir
    with pytest.raises(ModelFolderError, match=rf"^on \S+: .* has digest {digest}, the driver's has other"):
        open_same_model(str(model_dir), "other")
    with pytest.raises(ModelFolderError, match=r"^on \S+: "):
        open_same_model(str(model_dir / "none"), digest)


class Slow(SimpleHTTPRequestHandler):
    """Files of a folder, counted; the weights come slowly while `slow` is set."""

    slow = threading.Event()
    weights_asked = 0

    def do_GET(self) -> None:
        if self.path.endswith("/llm/model.safetensors"):
            type(self).weights_asked += 1
            while self.slow.is_set():
                time.sleep(0.02)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def url(model_dir: Path) -> Iterator[str]:
    """The tiny model behind a web server."""
    Slow.weights_asked = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Slow, directory=model_dir))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    Slow.slow.clear()
    server.shutdown()
    server.server_close()


def test_a_copy_that_was_cut_short_is_made_anew_and_by_one_process(
    url: str, model_dir: Path, cache: Path
) -> None:
    Slow.slow.set()
    command = [sys.executable, "-c", FETCH, url]
    cut = subprocess.Popen(command)
    while not Slow.weights_asked:
        assert cut.poll() is None
        time.sleep(0.02)
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    assert copies(cache) == []
    Slow.slow.clear()
    Slow.weights_asked = 0
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=300)[0].strip() for process in both}
    assert paths == {str(path) for path in copies(cache)}
    assert len(paths) == 1
    assert Slow.weights_asked == 1
    copy = open_model_anywhere(paths.pop())
    assert model_digest(copy) == model_digest(open_model_anywhere(str(model_dir)))
    assert list(cache.glob("*.building")) == []
