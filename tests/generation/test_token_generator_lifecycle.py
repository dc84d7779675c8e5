"""TokenGenerator's beginnings and ends: unguided, closed, broken, and started again in one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine_common import one_thread, request_for
from tests.tiny_model import build_tiny_model
from tests.two_pass import TwoPass
from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.errors import EngineDeadError, RequestError
from v2flow_engine.generation.token_generator import TokenGenerator

pytest.importorskip("vllm")
CACHE_GIB = 1 / 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_model(build_tiny_model(tmp_path_factory.mktemp("lifecycle") / "model"))


@pytest.fixture(scope="module")
def unguided(folder: ModelFolder) -> Iterator[TokenGenerator]:
    settings = {"guided": False, "max_num_seqs": 4, "kv_cache_gib": CACHE_GIB}
    with one_thread(), TokenGenerator(folder, **settings) as generator:
        yield generator


def test_unguided_is_the_plain_model_with_a_mask(folder: ModelFolder, unguided: TokenGenerator) -> None:
    loop = TwoPass(folder.llm_dir, folder.vocabulary)
    requests = [request_for(folder, i, temperature=0.0, guidance_scale=1.0) for i in range(3)]
    for request, written in zip(requests, unguided.generate(requests), strict=True):
        assert written == loop.greedy(request.prompt_token_ids, 16, None)


def test_unguided_refuses_a_scale(folder: ModelFolder, unguided: TokenGenerator) -> None:
    with pytest.raises(RequestError, match="unguided"):
        unguided.generate([request_for(folder, 0, guidance_scale=3.0)])


def test_guidance_doubles_the_cache_and_death_is_told_apart(
    folder: ModelFolder, unguided: TokenGenerator
) -> None:
    """The same bytes hold twice the tokens unguided. A closed or broken engine blames no request."""
    unguided_blocks = unguided.num_kv_cache_blocks
    unguided.close()
    unguided.close()
    with pytest.raises(EngineDeadError, match="closed"):
        unguided.generate([request_for(folder, 0, guidance_scale=1.0)])
    with TokenGenerator(folder, max_num_seqs=4, kv_cache_gib=CACHE_GIB) as guided:
        assert guided.num_kv_cache_blocks == unguided_blocks // 2
        assert len(guided.generate([request_for(folder, 0)])[0]) == 16
        break_model(guided)
        for message in ("broke: ZeroDivisionError", "broke earlier: ZeroDivisionError"):
            with pytest.raises(EngineDeadError, match=message):
                guided.generate([request_for(folder, 0)])


def break_model(generator: TokenGenerator) -> None:
    """Make the model's next forward pass fail inside vLLM."""
    model = generator._engine.model_executor.driver_worker.worker.model_runner.model

    def forward(*_: object, **__: object) -> None:
        raise ZeroDivisionError("made to fail")

    model.forward = forward
