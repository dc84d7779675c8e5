"""TokenRequest.forced_visual_token_ids: what comes out, what the LLM sees of it, what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine_common import one_thread, request_for
from tests.tiny_model import build_tiny_model
from tests.two_pass import TwoPass
from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.errors import RequestError
from v2flow_engine.generation.request import ForcedRuns
from v2flow_engine.generation.token_generator import TokenGenerator

pytest.importorskip("vllm")

Forced = list[int | None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_model(build_tiny_model(tmp_path_factory.mktemp("forced") / "model"))


@pytest.fixture(scope="module", params=[True, False], ids=["guided", "unguided"])
def generator(folder: ModelFolder, request: pytest.FixtureRequest) -> Iterator[TokenGenerator]:
    with one_thread(), TokenGenerator(folder, max_num_seqs=4, guided=request.param) as generator:
        yield generator


def patterns(folder: ModelFolder) -> list[Forced | None]:
    """A hole in the middle of a picture, only the start, only the end, every other one, none, all."""
    ids = [folder.vocabulary.visual_offset + (7 * i) % 64 for i in range(16)]
    hole = [None if i in (5, 6, 9, 10) else ids[i] for i in range(16)]
    start, end = [*ids[:9], *[None] * 7], [*[None] * 9, *ids[9:]]
    every_other = [None if i % 2 else ids[i] for i in range(16)]
    return [hole, start, end, every_other, None, [None] * 16, ids]


def test_greedy_tokens_equal_the_two_pass_loop(folder: ModelFolder, generator: TokenGenerator) -> None:
    loop, scale = TwoPass(folder.llm_dir, folder.vocabulary), 3.0 if generator.guided else 1.0
    requests = [
        request_for(folder, i, temperature=0.0, guidance_scale=scale, forced_visual_token_ids=forced)
        for i, forced in enumerate(patterns(folder))
    ]
    written = generator.generate(requests)
    for request, tokens in zip(requests, written, strict=True):
        forced = request.forced_visual_token_ids
        assert tokens == loop.greedy(request.prompt_token_ids, 16, scale, forced)
        assert all(known in (None, token) for known, token in zip(forced or tokens, tokens, strict=True))


def test_a_schedule_counts_the_positions_of_the_image(folder: ModelFolder, generator: TokenGenerator) -> None:
    """Forced tokens at either end are not written, and still move the schedule on."""
    if not generator.guided:
        pytest.skip("without guidance there is no schedule")
    loop = TwoPass(folder.llm_dir, folder.vocabulary)
    requests = [
        request_for(
            folder,
            i,
            temperature=0.0,
            guidance_scale=7.0,
            guidance_schedule="linear",
            forced_visual_token_ids=forced,
        )
        for i, forced in enumerate(patterns(folder))
    ]
    for request, tokens in zip(requests, generator.generate(requests), strict=True):
        forced = request.forced_visual_token_ids
        assert tokens == loop.greedy(request.prompt_token_ids, 16, 7.0, forced, "linear")


def test_sampled_tokens_depend_on_their_own_request_alone(
    folder: ModelFolder, generator: TokenGenerator
) -> None:
    scale = 3.0 if generator.guided else 1.0
    requests = [
        request_for(folder, i, guidance_scale=scale, forced_visual_token_ids=forced)
        for i, forced in enumerate(patterns(folder))
    ]
    written = generator.generate(requests)
    assert [generator.generate([request])[0] for request in requests] == written
    first, codebook = folder.vocabulary.visual_offset, folder.vocabulary.codebook_size
    assert all(first <= token < first + codebook for tokens in written for token in tokens)
    free = request_for(folder, 5, guidance_scale=scale)
    assert generator.generate([free])[0] == written[5]


def test_runs_are_what_lies_around_the_free_positions(folder: ModelFolder) -> None:
    def split(forced: Forced | None) -> ForcedRuns:
        return request_for(folder, 0, num_visual_tokens=4, forced_visual_token_ids=forced).split()

    assert split(None) == split([None] * 4) == ForcedRuns([], [None] * 4, [])
    assert split([1, None, 3, 4]) == ForcedRuns([1], [None], [3, 4])
    assert split([None, 2, None, 4]) == ForcedRuns([], [None, 2, None], [4])
    assert split([1, 2, 3, 4]) == ForcedRuns([1, 2, 3, 4], [], [])


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        ([None] * 15, "an entry for each of 16 visual tokens, got 15"),
        ([3] + [None] * 15, "every forced visual token id must be a whole number from .* got 3"),
        ([None] * 15 + [10**6], "every forced visual token id .* got 1000000"),
        ([1.5] + [None] * 15, "every forced visual token id .* got 1.5"),
        ("x" * 16, "must be a list, got str"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    folder: ModelFolder, generator: TokenGenerator, forced: object, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        generator.generate([request_for(folder, 0, guidance_scale=1.0, forced_visual_token_ids=forced)])
