"""`v2flow serve` on Ray Serve as users start it, once: two decoders, one token generator, and what may befall them.

The tests run in their order; the last one ends the server. Counters are read from `/metrics`, processes found by name.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.processes import started_by
from tests.ports import free_port
from tests.serving import faults
from tests.serving.collector import Receiver, attributes_of
from tests.serving.conftest import served
from tests.serving.conftest import until as until_within
from tests.serving.pictures import alike, gradient, hole, png
from tests.serving.test_load_and_loss import send
from tests.tiny_model import build_tiny_model

GENERATIONS = "/v1/images/generations"
SHORT = {"prompt": "a red apple", "seed": 3}
LONG = {"prompt": "a red apple", "n": 4, "rounds": 16, "num_inference_steps": 1000, "seed": 1}
MAX_PICTURES, DECODERS = 12, 2
PATIENCE = 280.0  # a busy core may take minutes to start a replica
until = partial(until_within, wait=PATIENCE)


@dataclass(frozen=True)
class OnRay:
    """A server in a process of its own. fault: a file that breaks the token engine."""

    process: subprocess.Popen[bytes]
    url: str
    fault: Path
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def counters(self, stage: str) -> dict[str, float]:
        """Of a stage, over its replicas: in_flight, finished_total, steps_total, ..."""
        answer = httpx.get(f"{self.url}/metrics", timeout=PATIENCE)
        prefix = "v2flow_stage_"
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if sample.name.startswith(prefix) and sample.labels["stage"] == stage:
                    name = sample.name.removeprefix(prefix)
                    found[name] = found.get(name, 0.0) + sample.value
        return found

    def idle(self) -> bool:
        """Whether neither stage holds a request in any replica."""
        return all(self.counters(stage).get("in_flight") == 0 for stage in ("token", "decoder"))

    def replicas(self, deployment: str) -> dict[int, psutil.Process]:
        """The processes of a deployment by their ids."""
        found = started_by(self.process.pid, f"ServeReplica:v2flow:{deployment}")
        return {process.pid: process for process in found}


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[OnRay]:
    place = tmp_path_factory.mktemp("on_ray")
    model, port, fault = build_tiny_model(place / "model"), free_port(), place / "break"
    path = os.pathsep.join((str(Path(faults.__path__[0])), os.environ.get("PYTHONPATH", "")))
    given = {"PYTHONPATH": path, "V2FLOW_TEST_BREAK_TOKENS": str(fault)}
    options = [
        *("--model", model, "--port", port, "--image-dir", place / "images", "--drain", 30),
        *("--decoder-replicas", DECODERS, "--max-pictures", MAX_PICTURES, "--max-num-seqs", 8),
        *("--otlp-endpoint", receiver.url),
    ]
    log = place / "log"
    with served(options, log, PATIENCE, **given) as process:
        yield OnRay(process, f"http://127.0.0.1:{port}", fault, log)


@pytest.fixture
def http(on_ray: OnRay) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=on_ray.url, timeout=PATIENCE) as client:
        yield client


def test_everything_is_answered(on_ray: OnRay, http: httpx.Client) -> None:
    assert http.get("/health").status_code == http.get("/ready").status_code == 200
    with openai.OpenAI(base_url=f"{on_ray.url}/v1", api_key="x", timeout=PATIENCE) as client:
        two = client.images.generate(prompt="a red apple", n=2, extra_body={"seed": 2})
        third = client.images.generate(prompt="a red apple", extra_body={"seed": 3})
        assert alike(two.data[1].b64_json, third.data[0].b64_json)
        events = list(
            client.images.generate(
                prompt="a red apple", stream=True, partial_images=1, extra_body={"seed": 3}
            )
        )
        assert [event.type.rpartition(".")[2] for event in events] == ["partial_image", "completed"]
        assert alike(events[-1].b64_json, third.data[0].b64_json)
        url = client.images.generate(prompt="a red apple", response_format="url").data[0].url
        assert httpx.get(url, timeout=PATIENCE).headers["content-type"] == "image/png"
        edited = client.images.edit(image=("a.png", png(hole())), prompt="a red apple")
        assert edited.usage.input_tokens_details.image_tokens > 0
        assert client.images.create_variation(image=("a.png", png(gradient()))).data
    refused = http.post(GENERATIONS, json=SHORT | {"rounds": 1000})  # the model's own limit
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "rounds"


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_leaves_frees_the_decoder_within_a_round(on_ray: OnRay, stream: bool) -> None:
    before = on_ray.counters("decoder")
    how = {"stream": True, "partial_images": 3} if stream else {}
    connection = send(on_ray, LONG | how)
    until(lambda: on_ray.counters("decoder")["steps_total"] > before["steps_total"] + 2)
    connection.close()
    until(lambda: on_ray.counters("decoder")["cancelled_total"] == before["cancelled_total"] + 4)
    steps = on_ray.counters("decoder")["steps_total"]
    until(on_ray.idle)
    after = on_ray.counters("decoder")
    assert after["steps_total"] <= steps + DECODERS  # the rounds that were under way
    assert after["finished_total"] == before["finished_total"]


def test_a_full_server_says_when_to_come_again(on_ray: OnRay, http: httpx.Client) -> None:
    held = [send(on_ray, LONG) for _ in range(MAX_PICTURES // LONG["n"])]
    until(lambda: on_ray.counters("decoder")["in_flight"] == MAX_PICTURES)
    refused = http.post(GENERATIONS, json={"prompt": "a dog"})
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    for connection in held:
        connection.close()
    until(on_ray.idle)
    assert http.post(GENERATIONS, json=SHORT).status_code == 200


def test_an_answer_has_one_id(on_ray: OnRay, http: httpx.Client) -> None:
    for given in ({}, {"x-request-id": "mine"}):
        ids = http.get("/v1/models", headers=given).headers.get_list("x-request-id")
        assert len(ids) == 1 and ids[0] == given.get("x-request-id", ids[0])


def test_a_trace_goes_across_the_three_deployments(http: httpx.Client, receiver: Receiver) -> None:
    trace, parent = "7" * 32, "8" * 16
    headers = {"traceparent": f"00-{trace}-{parent}-01"}
    assert http.post(GENERATIONS, json=SHORT, headers=headers).status_code == 200
    until(lambda: len(receiver.of(trace)) == 5)  # each process sends what it has every few seconds
    spans, process = receiver.of(trace), {}
    for _, span, about in receiver.spans:
        process[span.span_id] = about["process.pid"]
    whole = spans[f"POST {GENERATIONS}"]
    assert whole.parent_span_id.hex() == parent
    assert attributes_of(whole.attributes)["http.response.status_code"] == 200
    for asked, stage in (("ask token", "token generator"), ("ask decoder", "decoder")):
        assert spans[asked].parent_span_id == whole.span_id
        assert spans[stage].parent_span_id == spans[asked].span_id
    deployments = (whole, spans["token generator"], spans["decoder"])
    assert len({process[span.span_id] for span in deployments}) == 3


def test_each_replica_has_counters_of_its_own(on_ray: OnRay) -> None:
    text = httpx.get(f"{on_ray.url}/metrics", timeout=PATIENCE).text
    steps = {
        (sample.labels["stage"], sample.labels["replica"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "v2flow_stage_steps_total"
    }
    assert sorted(stage for stage, _ in steps) == ["decoder"] * DECODERS + ["token"]


def test_a_batch_outlives_the_ingress_that_worked_on_it(on_ray: OnRay) -> None:
    body = {"prompt": "a red apple", "rounds": 16, "num_inference_steps": 300}
    lines = [
        {"custom_id": str(k), "method": "POST", "url": GENERATIONS, "body": body | {"seed": k}}
        for k in range(40)
    ]
    with openai.OpenAI(base_url=f"{on_ray.url}/v1", api_key="x", timeout=PATIENCE, max_retries=20) as client:
        file = client.files.create(file=("a", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=GENERATIONS, completion_window="24h")
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 2)
        (ingress,) = on_ray.replicas("Ingress")
        os.kill(ingress, signal.SIGKILL)
        until(lambda: set(on_ray.replicas("Ingress")) - {ingress} != set())
        until(lambda: client.batches.retrieve(batch.id).status == "completed")
        answers = client.files.content(client.batches.retrieve(batch.id).output_file_id).text.splitlines()
    assert sorted(int(json.loads(each)["custom_id"]) for each in answers) == list(range(40))
    until(on_ray.idle)


def _answers_while(on_ray: OnRay, count: int, body: dict[str, Any], act: Any) -> list[httpx.Response]:
    """Send requests with seeds of their own at once, do something, and wait for all answers."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        asked = [
            pool.submit(
                httpx.post, f"{on_ray.url}{GENERATIONS}", json=body | {"seed": seed}, timeout=PATIENCE
            )
            for seed in range(count)
        ]
        act()
        return [each.result() for each in asked]


def test_a_killed_decoder_loses_nothing_and_comes_back(on_ray: OnRay, http: httpx.Client) -> None:
    body = {"prompt": "a red apple", "rounds": 8, "num_inference_steps": 300}
    whole = http.post(GENERATIONS, json=body | {"seed": 5}).json()["data"][0]["b64_json"]
    killed = next(iter(on_ray.replicas("Decoder").values()))
    busy = on_ray.counters("decoder")["steps_total"]

    def kill() -> None:
        until(lambda: on_ray.counters("decoder")["steps_total"] > busy + 2)
        assert on_ray.counters("decoder")["in_flight"] > 0
        os.kill(killed.pid, signal.SIGKILL)

    answers = _answers_while(on_ray, 8, body, kill)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert alike(answers[5].json()["data"][0]["b64_json"], whole)
    assert killed.pid not in on_ray.replicas("Decoder")


def test_a_dead_token_engine_is_replaced_and_nobody_notices(on_ray: OnRay, http: httpx.Client) -> None:
    whole = http.post(GENERATIONS, json=SHORT | {"seed": 2}).json()["data"][0]["b64_json"]
    (old,) = on_ray.replicas("TokenGenerator")
    on_ray.fault.touch()
    until(lambda: not on_ray.fault.exists())
    answers = _answers_while(on_ray, 3, SHORT, lambda: None)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert alike(answers[2].json()["data"][0]["b64_json"], whole)
    (new,) = on_ray.replicas("TokenGenerator")
    assert new != old
    until(lambda: len(on_ray.replicas("Decoder")) == DECODERS)  # the one that was killed is there again
    until(on_ray.idle)


def test_a_signal_finishes_what_is_under_way(on_ray: OnRay) -> None:
    started = on_ray.counters("decoder")["steps_total"]
    late: list[httpx.Response] = []

    def end() -> None:
        until(lambda: on_ray.counters("decoder")["steps_total"] > started)
        on_ray.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{on_ray.url}/ready", timeout=PATIENCE).status_code == 503)
        late.append(httpx.post(f"{on_ray.url}{GENERATIONS}", json=SHORT, timeout=PATIENCE))

    descendants = psutil.Process(on_ray.process.pid).children(recursive=True)
    (answer,) = _answers_while(on_ray, 1, LONG | {"num_inference_steps": 500}, end)
    assert answer.status_code == 200 and len(answer.json()["data"]) == LONG["n"]
    assert late[0].status_code == 503 and "retry-after" in late[0].headers
    assert on_ray.process.wait(PATIENCE) == 0, on_ray.log.read_text()
    _, alive = psutil.wait_procs(descendants, timeout=60)
    assert not alive
