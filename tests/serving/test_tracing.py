"""Spans as a collector gets them: a real OTLP/HTTP receiver, a real server, the ids and parents that came over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.serving.collector import Receiver, attributes_of
from tests.serving.conftest import WAIT, Live, Serving, until
from v2flow_engine.serving import tracing
from v2flow_engine.serving.deployments import DecoderReplica, TokenGeneratorReplica
from v2flow_engine.serving.tracing import traces_url, tracing_to

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GENERATIONS = "/v1/images/generations"


@pytest.fixture(scope="module")
def traced(serving: Serving, backend: object, receiver: Receiver) -> Iterator[Live]:
    """A server that sends spans, and so do its stages."""
    url = traces_url(receiver.url)
    before, backend._tracing = backend._tracing, tracing_to(url)
    with serving(traces_url=url) as live:
        yield live
    backend._tracing = before


def test_a_request_through_both_stages_is_one_trace(traced: Live, receiver: Receiver) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    body = {"prompt": "a red apple with a secret", "seed": 1}
    answer = httpx.post(traced.url + GENERATIONS, json=body, headers=headers, timeout=WAIT)
    assert answer.status_code == 200
    tracing_to(traced.settings.traces_url).flush()
    names = {f"POST {GENERATIONS}", "ask token", "token generator", "ask decoder", "decoder"}
    until(lambda: receiver.of(TRACE).keys() == names)
    spans = receiver.of(TRACE)
    whole = spans[f"POST {GENERATIONS}"]
    assert whole.parent_span_id.hex() == PARENT
    about = attributes_of(whole.attributes)
    assert about["http.response.status_code"] == 200 and about["http.route"] == GENERATIONS
    assert about["v2flow.request_id"] == answer.headers["x-request-id"]
    for asked, stage in (("ask token", "token generator"), ("ask decoder", "decoder")):
        assert spans[asked].parent_span_id == whole.span_id
        assert spans[stage].parent_span_id == spans[asked].span_id
        assert whole.start_time_unix_nano <= spans[stage].start_time_unix_nano
        assert spans[stage].end_time_unix_nano <= whole.end_time_unix_nano
    assert spans["token generator"].end_time_unix_nano <= spans["decoder"].start_time_unix_nano
    assert attributes_of(spans["ask token"].attributes)["v2flow.tokens"] == 16
    assert all(
        path == "/v1/traces" and about["service.name"] == "v2flow" for path, _, about in receiver.spans
    )
    assert "secret" not in "".join(str(span) for _, span, _ in receiver.spans)


def test_a_request_without_a_parent_begins_a_trace(traced: Live, receiver: Receiver) -> None:
    before = len(receiver.spans)
    assert httpx.get(f"{traced.url}/v1/models", timeout=WAIT).status_code == 200
    assert (
        httpx.get(
            f"{traced.url}/v1/files/none", headers={"traceparent": "nonsense"}, timeout=WAIT
        ).status_code
        == 404
    )
    assert httpx.get(f"{traced.url}/health", timeout=WAIT).status_code == 200  # not one of the API's
    tracing_to(traced.settings.traces_url).flush()
    until(lambda: len(receiver.spans) == before + 2)
    models, unknown = (span for _, span, _ in receiver.spans[before:])
    assert (models.name, unknown.name) == ("GET /v1/models", "GET /v1/files/{file_id}")
    assert not models.parent_span_id and models.trace_id != unknown.trace_id


def test_the_end_of_one_who_left_is_told(traced: Live, receiver: Receiver) -> None:
    trace = "5" * 32
    asked = {"prompt": "a cat", "rounds": 16, "num_inference_steps": 500, "stream": True, "partial_images": 3}
    headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
    with httpx.stream("POST", traced.url + GENERATIONS, json=asked, headers=headers, timeout=WAIT) as answer:
        next(answer.iter_lines())

    def told() -> bool:
        tracing_to(traced.settings.traces_url).flush()
        return {"decoder", "ask decoder"} <= receiver.of(trace).keys()

    until(told)
    assert attributes_of(receiver.of(trace)["decoder"].attributes)["v2flow.cancelled"] is True


@pytest.mark.parametrize("kind", [TokenGeneratorReplica, DecoderReplica])
def test_a_replica_that_ends_sends_what_it_has(kind: type, receiver: Receiver) -> None:
    """Serve calls `__del__` of a replica, and kills its process: what waits to be sent would be lost."""
    trace = "6" * 32
    replica = object.__new__(kind)
    replica.tracing = tracing_to(traces_url(receiver.url))
    with replica.tracing.stage(kind.__name__, f"00-{trace}-{PARENT}-01"):
        pass
    replica.__del__()
    assert kind.__name__ in receiver.of(trace)


def test_without_a_collector_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from v2flow_engine.serving.app import create_app; from v2flow_engine.serving import in_process\n"
        "from v2flow_engine.serving.tracing import tracing_to\n"
        "with tracing_to(None).request('x', {}) as span, tracing_to(None).stage('y') as trace: pass\n"
        "import json; print(json.dumps([span, trace, 'opentelemetry' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [None, None, False]
    for name in (tracing.BASE_VARIABLE, tracing.URL_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert traces_url(None) is None
    monkeypatch.setenv(tracing.BASE_VARIABLE, "http://c:4318/")
    assert traces_url(None) == "http://c:4318/v1/traces"
    monkeypatch.setenv(tracing.URL_VARIABLE, "http://d/t")
    assert traces_url(None) == "http://d/t" and traces_url("http://e") == "http://e/v1/traces"
