"""The two stages on a tiny model: a bad row costs itself, never its batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.offline.rows import TOO_LONG
from v2flow_engine.errors import EngineDeadError, RequestError
from v2flow_engine.generation.image_request import ImageRequest, plan_requests
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.generation.pipeline import Pipeline
from v2flow_engine.images import ImageMetadata, read_metadata
from v2flow_engine.offline.stages import TokenResult, batch_or_each, describe_error, make_images, make_tokens


@pytest.fixture(scope="module")
def pipeline(model_dir: Path) -> Iterator[Pipeline]:
    """A loaded tiny model."""
    with Pipeline.from_pretrained(model_dir, device="cpu") as loaded:
        yield loaded


@pytest.fixture
def requests(pipeline: Pipeline) -> list[ImageRequest]:
    """Four requests; the second prompt is too long, the fourth wants a size that there is not."""
    parameters = GenerationParameters.resolve(pipeline.folder)
    planned = plan_requests(["a cat", TOO_LONG, "a dog", "an owl"], parameters, seed=1)
    planned[3] = dataclasses.replace(planned[3], parameters=dataclasses.replace(parameters, size="8x8"))
    return planned


def test_bad_rows_leave_the_others_alone(pipeline: Pipeline, requests: list[ImageRequest]) -> None:
    tokens = make_tokens(pipeline.folder, pipeline.token_generator, requests)
    assert [bool(t.error) for t in tokens] == [False, True, False, True]
    assert "this model takes at most" in tokens[1].error
    assert "'8x8'" in tokens[3].error
    finished = make_images(pipeline.folder, pipeline.decoder, requests, tokens, "png", {"model": "tiny"})
    assert [f.index for f in finished] == [0, 1, 2, 3]
    assert [f.error for f in finished] == [t.error for t in tokens]
    assert [len(f.image) > 0 for f in finished] == [True, False, True, False]
    parameters = {"model": "tiny", **requests[2].parameters.to_dict()}
    assert read_metadata(finished[2].image) == ImageMetadata("a dog", 3, parameters)
    assert sum(finished[0].timings.values()) == pytest.approx(finished[0].seconds)
    assert finished[0].seconds > tokens[0].seconds > 0


def test_foreign_tokens_cost_their_row(pipeline: Pipeline, requests: list[ImageRequest]) -> None:
    good = make_tokens(pipeline.folder, pipeline.token_generator, requests[:1])[0]
    short, foreign = TokenResult(good.visual_token_ids[:-1], "", 0.0), TokenResult([3] * 16, "", 0.0)
    asked = [
        requests[0],
        dataclasses.replace(requests[0], index=1),
        dataclasses.replace(requests[0], index=2),
    ]
    finished = make_images(pipeline.folder, pipeline.decoder, asked, [short, good, foreign], "webp", {})
    assert "has 16 visual tokens, got 15" in finished[0].error
    assert read_metadata(finished[1].image) is not None
    assert "token id 3 is no visual token" in finished[2].error


def test_a_dead_engine_is_no_rows_fault() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if 3 in items:
            raise EngineDeadError("gone")
        raise RequestError("a bad row")

    assert [str(e) for e in batch_or_each(work, [1, 2])] == ["a bad row", "a bad row"]
    with pytest.raises(EngineDeadError):
        batch_or_each(work, [1, 2, 3])
    assert batch_or_each(work, []) == []


def test_errors_are_one_line() -> None:
    assert describe_error(RequestError("too\n  long")) == "too long"
    assert describe_error(RuntimeError("out of memory\nTraceback")) == "RuntimeError: out of memory Traceback"
