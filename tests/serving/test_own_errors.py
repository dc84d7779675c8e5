"""What is the server's own fault is answered, counted and logged like all else, also in the middle of an answer."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import LIMITS, WAIT, Live, Serving, all_quiet, until
from tests.serving.test_load_and_loss import LONG
from tests.serving.test_metrics import Samples, of, samples

GENERATIONS, CHAT = "/v1/images/generations", "/v1/chat/completions"
BROKEN = "v2flow_broken_answers_total"
CHAT_BODY = {"messages": [{"role": "user", "content": "a cat"}], "stream": True}


@pytest.fixture
def no_folder(serving: Serving, tmp_path: Path) -> Iterator[Live]:
    """A server whose folder of pictures has been removed under it."""
    images = tmp_path / "images"
    with serving(image_dir=str(images), data_dir=str(tmp_path / "data")) as live:
        shutil.rmtree(images)
        yield live


def lines(caplog: pytest.LogCaptureFixture) -> list[dict]:
    return [each.fields for each in caplog.records if each.name == "v2flow.access"]


def counted(live: Live) -> Samples:
    with httpx.Client(base_url=live.url, timeout=WAIT) as client:
        return samples(client)


def test_an_error_of_the_servers_own(no_folder: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "v2flow.access")
    body = {"prompt": "a cat", "response_format": "url"}
    answer = httpx.post(no_folder.url + GENERATIONS, json=body, timeout=WAIT)
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "The server had an error of its own.",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    told = {each["request_id"]: each for each in lines(caplog)}[answer.headers["x-request-id"]]
    assert (told["status"], told["path"]) == (500, GENERATIONS) and "broken_status" not in told
    found = counted(no_folder)
    assert of(found, "v2flow_requests_total", route=GENERATIONS, method="POST", status="500") == 1
    assert of(found, "v2flow_requests_total", route=GENERATIONS, method="POST", status="499") == 0


def test_pages_that_may_call_see_it_too(serving: Serving, tmp_path: Path) -> None:
    images, page = tmp_path / "images", "https://page.example"
    with serving(image_dir=str(images), data_dir=str(tmp_path / "data"), cors_origins=(page,)) as live:
        shutil.rmtree(images)
        body = {"prompt": "a cat", "response_format": "url"}
        answer = httpx.post(live.url + GENERATIONS, json=body, headers={"origin": page}, timeout=WAIT)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (500, page)


def test_a_stream_with_an_error_in_it(no_folder: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "v2flow.access")
    answer = httpx.post(no_folder.url + CHAT, json=CHAT_BODY, timeout=WAIT)
    assert answer.status_code == 200 and "internal_error" in answer.text
    told = {each["request_id"]: each for each in lines(caplog)}[answer.headers["x-request-id"]]
    assert (told["status"], told["broken_status"]) == (200, 500)
    found = counted(no_folder)
    assert of(found, BROKEN, route=CHAT, status="500") == 1
    assert of(found, "v2flow_requests_total", route=CHAT, method="POST", status="200") == 1


def test_a_stream_beyond_its_deadline(serving: Serving) -> None:
    with serving(limits=dataclasses.replace(LIMITS, request_seconds=0.3)) as hasty:
        assert of(counted(hasty), BROKEN, route=GENERATIONS, status="504") == 0
        answer = httpx.post(hasty.url + GENERATIONS, json=LONG | {"stream": True}, timeout=WAIT)
        assert answer.status_code == 200 and "deadline_exceeded" in answer.text
        assert of(counted(hasty), BROKEN, route=GENERATIONS, status="504") == 1
        all_quiet(hasty)


def test_an_answer_that_breaks_off(live: Live, http: httpx.Client) -> None:
    before = samples(http)
    file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": bytes(1000)}).json()
    (live.settings.data_path / "files" / file["id"]).write_bytes(b"cut short")
    with pytest.raises(httpx.RemoteProtocolError):
        http.get(f"/v1/files/{file['id']}/content")
    route = "/v1/files/{file_id}/content"
    assert of(samples(http), BROKEN, route=route, status="500") == 1
    assert of(before, BROKEN, route=route, status="500") == 0


def test_a_good_stream_is_no_error(http: httpx.Client) -> None:
    before = samples(http)
    assert "completed" in http.post(GENERATIONS, json={"prompt": "a cat", "stream": True}).text
    after = samples(http)
    assert {key: after[key] for key in after if key[0] == BROKEN} == {
        key: before[key] for key in before if key[0] == BROKEN
    }


def test_a_caller_who_leaves_in_the_middle_of_an_upload(live: Live, http: httpx.Client) -> None:
    edits = {"route": "/v1/images/edits", "method": "POST"}
    before = samples(http)
    head = "POST /v1/images/edits HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=WAIT) as connection:
        connection.sendall(f"{head}content-length: 1000\r\n\r\n--b\r\n".encode())
    until(lambda: of(samples(http), "v2flow_requests_total", status="499", **edits) > 0)
    after = samples(http)
    for status, more in (("499", 1), ("500", 0)):
        counts = [of(each, "v2flow_requests_total", status=status, **edits) for each in (before, after)]
        assert counts[1] - counts[0] == more
