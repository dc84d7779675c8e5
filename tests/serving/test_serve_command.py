"""`v2flow serve` as users start it, in a process of its own, with the options that a shared engine cannot have."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from tests.serving.conftest import WAIT, served
from tests.serving.pictures import data_url, gradient, hole, png
from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.images import read_metadata

GENERATIONS, EDITS, CHAT = "/v1/images/generations", "/v1/images/edits", "/v1/chat/completions"
PICTURES = {
    "images": [{"image_url": data_url(png(gradient()))}],
    "mask": {"image_url": data_url(png(hole()))},
}
BODIES = {
    GENERATIONS: {"prompt": "a cat"},
    EDITS: {"prompt": "a cat"} | PICTURES,
    CHAT: {"messages": [{"role": "user", "content": "a cat"}]},
}

PATIENCE = 280.0  # a busy machine may take minutes to start it


@dataclass(frozen=True)
class Process:
    """A server of its own, with an unguided LLM."""

    url: str
    log: Path
    images: Path

    def lines(self) -> list[dict]:
        """Of the log, beside which torch writes lines of its own, and the command tells that it is ready."""
        return [json.loads(each) for each in self.log.read_text().splitlines() if each.startswith("{")]


@pytest.fixture(scope="module")
def process(folder: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    place, port = tmp_path_factory.mktemp("own"), free_port()
    options = [
        *("--model", folder.path, "--port", port, "--single-process", "--unguided", "--max-num-seqs", 8),
        *("--image-dir", place / "images", "--data-dir", place / "data"),
    ]
    server = Process(f"http://127.0.0.1:{port}", place / "log", place / "images")
    with served(options, server.log, PATIENCE):
        yield server


@pytest.mark.parametrize("address", BODIES)
@pytest.mark.parametrize("named", [{}, {"guidance_scale": 1}])
def test_an_unguided_server_draws_without_guidance(process: Process, address: str, named: dict) -> None:
    answer = httpx.post(process.url + address, json=BODIES[address] | named, timeout=WAIT)
    assert answer.status_code == 200, answer.text
    if address != CHAT:
        picture = base64.b64decode(answer.json()["data"][0]["b64_json"])
        assert read_metadata(picture).parameters["guidance_scale"] == 1


@pytest.mark.parametrize("address", BODIES)
@pytest.mark.parametrize("stream", [False, True])
def test_an_unguided_server_refuses_guidance(process: Process, address: str, stream: bool) -> None:
    body = BODIES[address] | {"guidance_scale": 2.5, "stream": stream}
    answer = httpx.post(process.url + address, json=body, timeout=WAIT)
    assert answer.status_code == 400
    error = json.loads(answer.text)["error"]
    assert error["param"] == "guidance_scale" and "unguided" in error["message"]


def test_the_log_is_json(process: Process) -> None:
    good = httpx.post(process.url + GENERATIONS, json={"prompt": "a secret\ncat"}, timeout=WAIT)
    shutil.rmtree(process.images)
    chat = BODIES[CHAT] | {"stream": True}
    plain, stream = (httpx.post(process.url + CHAT, json=each, timeout=WAIT) for each in (BODIES[CHAT], chat))
    process.images.mkdir()
    assert [each.status_code for each in (good, plain, stream)] == [200, 500, 200]
    ids = [each.headers["x-request-id"] for each in (good, plain, stream)]
    told = {
        request_id: [each for each in process.lines() if each.get("request_id") == request_id]
        for request_id in ids
    }
    [ended] = told[ids[0]]
    assert (ended["level"], ended["logger"]) == ("INFO", "v2flow.access")
    assert (ended["method"], ended["path"], ended["status"]) == ("POST", GENERATIONS, 200)
    assert abs((datetime.fromisoformat(ended["time"]) - datetime.now(UTC)).total_seconds()) < WAIT
    for request_id, status in ((ids[1], {"status": 500}), (ids[2], {"status": 200, "broken_status": 500})):
        error, ended = told[request_id]
        assert error["level"] == "ERROR" and error["message"] and "FileNotFoundError" in error["exception"]
        assert ended["logger"] == "v2flow.access" and status.items() <= ended.items()
    assert "secret" not in process.log.read_text()
