"""Callers who leave, queues that are full, deadlines, and engines that die."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import threading
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest

from tests.generation.test_token_generator_lifecycle import break_model
from tests.serving.conftest import LIMITS, WAIT, Live, Serving, all_quiet, until
from tests.serving.pictures import alike, data_url

GENERATIONS = "/v1/images/generations"
LONG = {"prompt": "a red apple", "n": 4, "rounds": 16, "num_inference_steps": 1000, "seed": 1}


@pytest.fixture
def held_tokens(live: Live) -> Iterator[Callable[[], None]]:
    """Keep the token engine between two steps until the returned function is called."""
    free, reached = threading.Event(), threading.Event()
    live.backend.token_worker.call(lambda _: (reached.set(), free.wait(WAIT)))
    assert reached.wait(WAIT)
    yield free.set
    free.set()


def send(live: Live, body: dict) -> socket.socket:
    """A request whose connection the caller keeps in hand."""
    content = json.dumps(body).encode()
    head = f"POST {GENERATIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", live.port), timeout=WAIT)
    connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def test_a_caller_who_leaves_while_tokens_are_written(live: Live, held_tokens: Callable[[], None]) -> None:
    before = live.backend.token_worker.stats.cancelled
    connection = send(live, LONG)
    until(lambda: live.backend.token_worker.stats.in_flight == 4)
    connection.close()
    until(lambda: live.backend.token_worker.stats.cancelled == before + 4)
    held_tokens()
    all_quiet(live)


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_leaves_frees_the_decoder_within_a_round(live: Live, stream: bool) -> None:
    decoder = live.backend.decoder_worker
    before = decoder.stats
    connection = send(live, LONG | {"stream": stream, **({"partial_images": 3} if stream else {})})
    until(lambda: decoder.stats.steps > before.steps + 2)
    connection.close()
    until(lambda: decoder.stats.cancelled == before.cancelled + 4)
    at_most = decoder.stats.steps + 1  # the round that was under way
    all_quiet(live)
    assert decoder.stats.steps <= at_most
    assert decoder.stats.finished == before.finished


def test_a_full_queue_says_when_to_come_again(
    live: Live, http: httpx.Client, held_tokens: Callable[[], None]
) -> None:
    waiting = send(live, {"prompt": "a cat", "n": 10})
    until(lambda: live.backend.token_worker.stats.in_flight == 10)
    for stream in (False, True):
        refused = http.post(GENERATIONS, json={"prompt": "a dog", "n": 3, "stream": stream})
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert http.get("/v1/models").status_code == 200
    held_tokens()
    assert waiting.recv(12) == b"HTTP/1.1 200"
    waiting.close()
    all_quiet(live)
    assert http.post(GENERATIONS, json={"prompt": "a dog", "n": 10}).status_code == 200


def test_a_full_server_opens_no_pictures(
    live: Live, http: httpx.Client, held_tokens: Callable[[], None]
) -> None:
    waiting = send(live, {"prompt": "a cat", "n": 10})
    until(lambda: live.backend.token_worker.stats.in_flight == 10)
    broken, edits = b"nothing that can be opened", "/v1/images/edits"
    asked = {"prompt": "a dog", "n": 3}
    by_url = {"images": [{"image_url": data_url(broken)}]}
    answers = [
        http.post(edits, files={"image": broken}, data=asked),
        http.post(edits, json=asked | by_url),
        http.post("/v1/images/variations", files={"image": broken}, data={"n": 3}),
    ]
    assert [answer.status_code for answer in answers] == [429] * 3
    held_tokens()
    assert waiting.recv(12) == b"HTTP/1.1 200"
    waiting.close()
    all_quiet(live)
    for _ in range(5):  # a refusal keeps no place
        assert http.post(edits, json=asked | by_url).status_code == 400


def test_the_client_comes_again_by_itself(live: Live, held_tokens: Callable[[], None]) -> None:
    waiting = send(live, {"prompt": "a cat", "n": 10})
    until(lambda: live.backend.token_worker.stats.in_flight == 10)
    threading.Timer(0.2, held_tokens).start()
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="x", max_retries=5, timeout=WAIT) as client:
        assert client.images.generate(prompt="a dog", n=5).data
    waiting.close()


def test_a_request_beyond_its_deadline_is_given_up(serving: Serving) -> None:
    with serving(limits=dataclasses.replace(LIMITS, request_seconds=0.3)) as hasty:
        answer = httpx.post(f"{hasty.url}{GENERATIONS}", json=LONG, timeout=WAIT)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert answer.headers["x-should-retry"] == "false"
        with openai.OpenAI(base_url=f"{hasty.url}/v1", api_key="x", timeout=WAIT) as client:
            stream = client.images.generate(prompt="a cat", stream=True, extra_body=LONG)
            with pytest.raises(openai.APIError, match="not finished in time"):
                list(stream)
        all_quiet(hasty)


def test_a_dead_token_engine_is_replaced_and_nobody_notices(
    live: Live, http: httpx.Client, held_tokens: Callable[[], None]
) -> None:
    body = {"prompt": "a red apple", "seed": 3}
    worker = live.backend.token_worker
    deaths = worker.stats.deaths
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(http.post(GENERATIONS, json=body))) for _ in range(3)
    ]
    worker.call(break_model)
    for thread in threads:
        thread.start()
    until(lambda: worker.stats.in_flight == 3)
    held_tokens()
    for thread in threads:
        thread.join(WAIT)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert worker.stats.deaths == deaths + 1
    again = http.post(GENERATIONS, json=body).json()["data"][0]["b64_json"]
    assert alike(answers[0].json()["data"][0]["b64_json"], again)


def test_a_dead_decoder_is_replaced_in_the_middle_of_a_stream(live: Live) -> None:
    worker = live.backend.decoder_worker
    deaths = worker.stats.deaths
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="x", max_retries=0, timeout=WAIT) as client:
        asked = {"seed": 3, "rounds": 8, "num_inference_steps": 200}
        whole = client.images.generate(prompt="a cat", extra_body=asked).data[0].b64_json
        stream = client.images.generate(prompt="a cat", stream=True, partial_images=3, extra_body=asked)
        events = [next(stream)]
        worker.call(lambda engine: setattr(engine.autoencoder, "decode", None))
        events += list(stream)
    assert worker.stats.deaths == deaths + 1
    assert [getattr(event, "partial_image_index", None) for event in events] == [0, 1, 2, None]
    assert alike(events[-1].b64_json, whole)


def test_an_engine_that_dies_again_is_told(live: Live, http: httpx.Client) -> None:
    worker = live.backend.decoder_worker
    start = worker._start

    def start_broken() -> object:
        worker._start = start
        engine = start()
        engine.autoencoder.decode = None
        return engine

    worker._start = start_broken
    worker.call(lambda engine: setattr(engine.autoencoder, "decode", None)).result(WAIT)
    refused = http.post(GENERATIONS, json={"prompt": "a cat"})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_unavailable"
    assert "retry-after" in refused.headers
    assert http.post(GENERATIONS, json={"prompt": "a cat"}).status_code == 200


def test_many_come_some_leave_and_nothing_is_left(live: Live) -> None:
    """60 requests, every tenth gives up: all others are answered or told to come again, and nothing stays behind."""

    async def scenario() -> list[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=live.url, timeout=WAIT, limits=limits) as client:

            async def one(index: int) -> int:
                patience = 0.05 if index % 10 == 0 else WAIT
                body = {"prompt": "a cat", "seed": index}
                while True:
                    try:
                        answer = await client.post(GENERATIONS, json=body, timeout=patience)
                    except httpx.TimeoutException:
                        return 0
                    if answer.status_code != 429 or patience < 1:
                        return answer.status_code
                    await asyncio.sleep(0.2)

            return await asyncio.gather(*(one(index) for index in range(60)))

    statuses = asyncio.run(scenario())
    assert {status for index, status in enumerate(statuses) if index % 10} == {200}
    assert set(statuses) <= {0, 200, 429}
    all_quiet(live)
