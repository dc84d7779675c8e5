"""TokenGenerator on a tiny model: exact counts, seeds, parameters and refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from tests.engine_common import one_thread, request_for
from tests.tiny_model import build_tiny_model
from tests.two_pass import TwoPass
from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.errors import ModelFolderError, RequestError
from v2flow_engine.generation.request import TokenRequest
from v2flow_engine.generation.token_generator import TokenGenerator

pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_model(build_tiny_model(tmp_path_factory.mktemp("generator") / "model"))


@pytest.fixture(scope="module")
def generator(folder: ModelFolder) -> Iterator[TokenGenerator]:
    with one_thread(), TokenGenerator(folder, max_num_seqs=8) as generator:
        yield generator


@pytest.fixture(scope="module")
def loop(folder: ModelFolder) -> TwoPass:
    return TwoPass(folder.llm_dir, folder.vocabulary)


def test_tokens_alone_and_in_a_batch_are_the_same(folder: ModelFolder, generator: TokenGenerator) -> None:
    """Mixed lengths, scales and top_k, more requests than rows; reversed and alone, every image repeats."""
    requests = [
        request_for(
            folder,
            i,
            num_visual_tokens=(16, 4, 9)[i % 3],
            guidance_scale=(1.0, 3.0, 7.0)[i % 3],
            top_k=(0, 5)[i % 2],
        )
        for i in range(12)
    ]
    written = generator.generate(requests)
    assert [len(w) for w in written] == [r.num_visual_tokens for r in requests]
    assert generator.generate(requests[::-1])[::-1] == written
    assert [generator.generate([request])[0] for request in requests[:4]] == written[:4]


def test_only_visual_ids_come_out(folder: ModelFolder, generator: TokenGenerator) -> None:
    """At temperature 0 as at 2, where five sixths of the probability would be on text ids."""
    first = folder.vocabulary.visual_offset
    visual = range(first, first + folder.vocabulary.codebook_size)
    requests = [request_for(folder, i, temperature=t) for i, t in enumerate((0.0, 1.0, 2.0, 2.0))]
    written = generator.generate(requests)
    assert all(token_id in visual for w in written for token_id in w)
    assert len(set(written[2])) > 4


def test_temperature_zero_is_the_two_pass_loop(
    folder: ModelFolder, generator: TokenGenerator, loop: TwoPass
) -> None:
    requests = [
        request_for(folder, i, temperature=0.0, guidance_scale=s) for i, s in enumerate((1.0, 2.5, 8.0))
    ]
    for request, written in zip(requests, generator.generate(requests), strict=True):
        assert written == loop.greedy(request.prompt_token_ids, 16, request.guidance_scale)


def test_top_k_one_is_greedy_and_k_bounds_the_choice(
    folder: ModelFolder, generator: TokenGenerator, loop: TwoPass
) -> None:
    """32 seeds of a first token: top_k 3 draws each of the three likeliest and no other; 0 goes beyond."""
    first = request_for(folder, 0, num_visual_tokens=1, temperature=2.0, guidance_scale=1.0)
    likeliest = loop.visual_logits(torch.tensor(first.prompt_token_ids)).topk(3).indices
    allowed = {int(i) + folder.vocabulary.visual_offset for i in likeliest}

    def drawn(top_k: int) -> set[int]:
        requests = [dataclasses.replace(first, seed=seed, top_k=top_k) for seed in range(32)]
        return {written[0] for written in generator.generate(requests)}

    assert drawn(1) == {int(likeliest[0]) + folder.vocabulary.visual_offset}
    assert drawn(3) == allowed
    assert len(drawn(0)) > 8


def test_seed_scale_and_prompt_each_change_the_tokens(folder: ModelFolder, generator: TokenGenerator) -> None:
    base = request_for(folder, 0, guidance_scale=2.0)
    changes = [
        {},
        {"seed": 2**63 - 1},
        {"guidance_scale": 6.0},
        {"prompt_token_ids": request_for(folder, 1).prompt_token_ids},
    ]
    written = generator.generate([dataclasses.replace(base, **change) for change in changes])
    assert len({tuple(w) for w in written}) == len(changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number from"),
        ({"guidance_scale": 101}, "guidance_scale"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"temperature": -0.1}, "temperature must be a number from"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_k": -1}, "top_k must be a whole number"),
        ({"top_k": 2.5}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"num_visual_tokens": 0}, "num_visual_tokens"),
        ({"prompt_token_ids": []}, "prompt_token_ids is empty"),
        ({"prompt_token_ids": [0, 10**6]}, "every prompt token id"),
        ({"prompt_token_ids": [0] * 120}, "at most 128"),
    ],
)
def test_bad_parameters_are_named_and_harm_nobody(
    folder: ModelFolder, generator: TokenGenerator, changes: dict[str, object], message: str
) -> None:
    """A good request in the same call is not generated, and works right after."""
    good = request_for(folder, 0)
    with pytest.raises(RequestError, match=message):
        generator.generate([good, dataclasses.replace(good, **changes)])
    assert len(generator.generate([dataclasses.replace(good, num_visual_tokens=2)])[0]) == 2


def test_no_requests_no_tokens(generator: TokenGenerator) -> None:
    assert generator.generate([]) == []


def test_one_generator_per_process(folder: ModelFolder, generator: TokenGenerator) -> None:
    with pytest.raises(RuntimeError, match="close"):
        TokenGenerator(folder)


def test_torch_keeps_its_threads(generator: TokenGenerator) -> None:
    """vLLM's CPU worker replaces torch.set_num_threads; the decoder shares this process and needs it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_refused_by_vllm_alone(
    folder: ModelFolder, generator: TokenGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only vLLM refuses is the request's fault too, and takes the queued ones with it."""
    monkeypatch.setattr(TokenRequest, "check", lambda *_, **__: None)
    bad = request_for(folder, 1, guidance_scale=-3.0)
    with pytest.raises(RequestError, match=r"request 1.*guidance_scale"):
        generator.generate([request_for(folder, 0), bad])
    assert not generator._engine.has_unfinished_requests()


def test_unknown_architecture_is_named(folder: ModelFolder, generator: TokenGenerator) -> None:
    from v2flow_engine.generation.token_generator import _engine_kwargs

    plain = dataclasses.replace(
        folder, llm_config=folder.llm_config | {"architectures": ["LlamaForCausalLM"]}
    )
    with pytest.raises(ModelFolderError, match=r"LlamaForCausalLM.*V2FlowLlamaForCausalLM"):
        _engine_kwargs(plain, "auto", 8, None, True)
