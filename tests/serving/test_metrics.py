"""`/metrics`: real requests move the numbers they should, and the dashboard asks for nothing that is not there."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.conftest import Live, all_quiet, until
from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.generation.image_request import plan_requests
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.serving.metrics import Metrics
from v2flow_engine.serving.observed import ObservedBackend
from v2flow_engine.serving.tracing import tracing_to

DASHBOARD = Path(__file__).parents[2] / "examples" / "deploy" / "grafana.json"
GENERATE = "/v1/images/generations"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(http: httpx.Client) -> Samples:
    answer = http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = {
                name: value for name, value in sample.labels.items() if name not in ("replica", "ingress")
            }
            assert sample.labels.keys() & {"replica", "ingress"} or sample.name == "v2flow_stages_up"
            key = (sample.name, tuple(sorted(labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def of(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


def requests(found: Samples, status: str) -> float:
    return of(found, "v2flow_requests_total", route=GENERATE, method="POST", status=status)


def test_requests_and_both_stages_are_counted(http: httpx.Client, live: Live) -> None:
    all_quiet(live)
    before = samples(http)
    assert http.post(GENERATE, json={"prompt": "a circle", "n": 2}).status_code == 200
    assert http.post(GENERATE, json={"prompt": 1}).status_code == 400
    after = samples(http)
    for status in ("200", "400"):
        assert requests(after, status) - requests(before, status) == 1
    count = "v2flow_request_seconds_count"
    assert of(after, count, route=GENERATE) - of(before, count, route=GENERATE) == 2
    for stage in ("token", "decoder"):
        finished = "v2flow_stage_finished_total"
        assert of(after, finished, stage=stage) - of(before, finished, stage=stage) == 2
        assert of(after, "v2flow_stage_in_flight", stage=stage) == 0
    assert of(after, "v2flow_stages_up") == 1


def test_times_of_stages_add_up_to_the_request(http: httpx.Client, live: Live) -> None:
    all_quiet(live)
    before = samples(http)
    body = {"prompt": "a circle", "rounds": 8, "num_inference_steps": 50}
    assert http.post(GENERATE, json=body).status_code == 200
    after = samples(http)

    def moved(name: str, **labels: str) -> float:
        return of(after, name, **labels) - of(before, name, **labels)

    whole, outside = (
        moved(f"v2flow_request_{name}_sum", route=GENERATE) for name in ("seconds", "outside_seconds")
    )
    asked = sum(moved("v2flow_ask_seconds_sum", stage=stage) for stage in ("token", "decoder"))
    inside = 0.0
    for stage in ("token", "decoder"):
        for part in ("queue", "compute"):
            assert moved(f"v2flow_stage_{part}_seconds_count", stage=stage) == 1
            inside += moved(f"v2flow_stage_{part}_seconds_sum", stage=stage)
    assert 0 < inside <= asked < whole
    assert whole - asked == pytest.approx(outside, abs=0.01)
    assert 0 < moved("v2flow_file_seconds_sum", format="png") < outside
    assert moved("v2flow_visual_tokens_total") == 16


def test_a_stage_is_over_before_its_picture_becomes_a_file(folder: ModelFolder, live: Live) -> None:
    (request,) = plan_requests(["a circle"], GenerationParameters.resolve(folder), seed=1)
    first = folder.vocabulary.visual_offset
    asked = request.decode_request(folder, [first] * 16)
    metrics = Metrics()
    observed = ObservedBackend(live.backend, metrics, tracing_to(None))

    async def asks_that_are_over() -> list[float | None]:
        count, of_decoder = "v2flow_ask_seconds_count", {"stage": "decoder"}
        return [
            metrics.registry.get_sample_value(count, of_decoder)
            async for _ in observed.decode(asked, previews=[1])
        ]

    assert asyncio.run(asks_that_are_over()) == [None, 1.0]


def test_steps_have_sizes_and_queues_lengths(http: httpx.Client, live: Live) -> None:
    all_quiet(live)
    before = samples(http)
    assert http.post(GENERATE, json={"prompt": "a circle", "n": 10}).status_code == 200
    after = samples(http)

    def moved(name: str, **labels: str) -> float:
        return of(after, name, **labels) - of(before, name, **labels)

    for stage, steps in (("token", 16), ("decoder", 2)):
        count = moved("v2flow_stage_batch_sizes_count", stage=stage)
        assert count == moved("v2flow_stage_steps_total", stage=stage) >= steps
        assert moved("v2flow_stage_batch_sizes_sum", stage=stage) == pytest.approx(10 * steps)
        assert of(after, "v2flow_stage_running", stage=stage) == 0
    # 8 have a place with the LLM, so two waited for one.
    waited = moved("v2flow_stage_queue_seconds_sum", stage="token")
    assert moved("v2flow_stage_queue_seconds_count", stage="token") == 10
    assert waited > 2 * moved("v2flow_stage_compute_seconds_sum", stage="token") / 10 * 0.5
    for of_whom in ("request", "batch"):
        assert of(after, "v2flow_pictures_under_way", of=of_whom) == 0


def test_a_caller_who_left_is_counted_as_cancelled(http: httpx.Client, live: Live) -> None:
    before = samples(http)
    asked = {"prompt": "a circle", "n": 10, "rounds": 16, "stream": True, "partial_images": 1}
    with http.stream("POST", GENERATE, json=asked) as answer:
        next(answer.iter_lines())
    all_quiet(live)

    def cancelled(found: Samples) -> float:
        return sum(of(found, "v2flow_stage_cancelled_total", stage=each) for each in ("token", "decoder"))

    until(lambda: cancelled(samples(http)) > cancelled(before))


def test_addresses_do_not_become_labels(http: httpx.Client) -> None:
    http.get("/no/such/place-12345")
    http.get("/v1/images/files/" + "x" * 43 + ".png")
    text = http.get("/metrics").text
    assert "place-12345" not in text and "xxxx" not in text


def test_the_dashboard_asks_for_what_is_exported(http: httpx.Client) -> None:
    http.post(GENERATE, json={"prompt": "a circle"})
    exported = {name for name, _ in samples(http)}
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    asked = {name for panel in panels for target in panel["targets"]
             for name in re.findall(r"v2flow_\w+", target["expr"])}  # fmt: skip
    assert len(asked) >= 8
    assert asked <= exported
