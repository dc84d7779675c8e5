"""How `v2flow serve --single-process` ends: by a signal at its start or in the middle of work, or with an engine."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from tests.serving.conftest import WAIT, served, until
from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.decoding.decoder_worker import DecoderWorker
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.engine_worker import MAX_DEATHS_IN_A_ROW
from v2flow_engine.serving.in_process import InProcessBackend
from v2flow_engine.serving.single_process import _watch

SOON = 20.0  # seconds, on a busy machine; an engine takes longer to start there


@pytest.mark.parametrize("later", [0.0, 4.0])
def test_a_signal_before_it_is_ready(folder: ModelFolder, tmp_path: Path, later: float) -> None:
    options = ["--model", str(folder.path), "--port", "0", "--single-process"]
    command = [sys.executable, "-m", "v2flow_engine.cli", "serve", *options]
    given = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=given, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "will serve" in process.stderr.readline()
        time.sleep(later)
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        _, told = process.communicate(timeout=WAIT)
        assert process.returncode in (0, 128 + signal.SIGTERM), told
        assert time.monotonic() - begun < SOON
        assert "Traceback" not in told and "ready after" not in told
    assert not list(tmp_path.glob("v2flow-*"))


def test_a_signal_in_the_middle_of_work(folder: ModelFolder, tmp_path: Path) -> None:
    """What is under way is answered, then the process ends."""
    port, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"
    options = ["--model", folder.path, "--port", port, "--single-process", "--image-dir", tmp_path / "images"]
    body = {"prompt": "a cat", "n": 8, "rounds": 16, "num_inference_steps": 50}
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(f"{url}/v1/images/generations", json=body, timeout=WAIT))

    with served(options, log, WAIT) as process:
        asking = threading.Thread(target=ask)
        asking.start()
        under_way = re.compile(r"^v2flow_pictures_under_way\{.*\} 8\.0$", re.MULTILINE)
        until(lambda: under_way.search(httpx.get(f"{url}/metrics").text) is not None)
        process.send_signal(signal.SIGTERM)
        asking.join(WAIT)
        assert process.wait(WAIT) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    assert "engine is" not in log.read_text()  # it was closed, and has not given up
    assert [(answer.status_code, len(answer.json()["data"])) for answer in answers] == [(200, 8)]


def test_the_server_ends_with_an_engine_that_has_given_up(
    folder: ModelFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a supervisor to start another: this one could only refuse."""
    backend = object.__new__(InProcessBackend)
    backend.token_worker = backend.decoder_worker = DecoderWorker(lambda: DecoderEngine.from_folder(folder))

    async def watched() -> BaseException:
        watching = asyncio.create_task(_watch(backend, time.monotonic()))
        for _ in range(MAX_DEATHS_IN_A_ROW):
            await asyncio.wrap_future(backend.decoder_worker.call(lambda engine: None))  # it serves
            assert not watching.done()
            backend.decoder_worker.call(lambda engine: setattr(engine, "scheduler", None))
            await asyncio.sleep(0.1)
        return await asyncio.wait_for(watching, WAIT)

    assert f"broke {MAX_DEATHS_IN_A_ROW} times in a row" in str(asyncio.run(watched()))
    assert "ready after" in capsys.readouterr().err
    backend.decoder_worker.close()


def test_an_engine_that_is_closed_has_not_given_up(folder: ModelFolder) -> None:
    worker = DecoderWorker(lambda: DecoderEngine.from_folder(folder))
    worker.close()
    assert worker.over and worker.given_up is None
