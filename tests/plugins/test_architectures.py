"""Every shape of LLM that the plugin runs, in vLLM, against transformers: tokens and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.engine_common import one_thread
from tests.shaped_llm import SHAPES, build_shaped_llm
from tests.tiny_llm import CAPTIONS
from tests.two_pass import TwoPass
from v2flow_engine.generation.two_pass import generate_two_pass
from v2flow_engine.llm_config import longest_sequence
from v2flow_engine.prompts import PromptEncoder

vllm = pytest.importorskip("vllm")
from tests.plugins.test_guided_llama import drain, start_engine, stop_engine  # noqa: E402

NUM_TOKENS = 64
SCALES = (1.0, 3.0)


@pytest.fixture(scope="module", params=SHAPES)
def shaped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """An LLM of the shape in vLLM and in transformers, and three prompts for it."""
    folder: Path = tmp_path_factory.mktemp("shapes") / request.param
    vocabulary = build_shaped_llm(folder, request.param)
    encoder = PromptEncoder(folder, vocabulary, max_model_len=128)
    with one_thread():
        engine = start_engine(folder, max_num_seqs=4, max_logprobs=vocabulary.codebook_size)
        yield SimpleNamespace(
            engine=engine,
            vocabulary=vocabulary,
            prompts=[encoder.encode(caption, "128x128") for caption in CAPTIONS[:3]],
            loop=TwoPass(folder, vocabulary),
        )
        stop_engine(engine)


def test_greedy_tokens_equal_transformers(shaped: SimpleNamespace) -> None:
    for scale in SCALES:
        params = vllm.SamplingParams(
            temperature=0.0,
            max_tokens=NUM_TOKENS,
            ignore_eos=True,
            detokenize=False,
            extra_args={"guidance_scale": scale},
        )
        for index, prompt in enumerate(shaped.prompts):
            shaped.engine.add_request(f"{scale}-{index}", {"prompt_token_ids": prompt}, params)
    written = drain(shaped.engine)
    for scale in SCALES:
        expected = generate_two_pass(
            shaped.loop.model, shaped.vocabulary, shaped.prompts, NUM_TOKENS, scale, temperature=0
        )
        rows = [written[f"{scale}-{index}"] for index in range(len(shaped.prompts))]
        assert rows == expected.tolist(), f"scale {scale}"
        assert min(len(set(row)) for row in rows) > 8  # an LLM that repeats itself would show little


def test_first_log_probabilities_equal_transformers(shaped: SimpleNamespace) -> None:
    first, size = shaped.vocabulary.visual_offset, shaped.vocabulary.codebook_size
    prompt = torch.tensor(shaped.prompts[0])
    cond = shaped.loop.visual_logits(prompt)
    uncond = shaped.loop.visual_logits(shaped.vocabulary.unconditional_ids(prompt))
    for scale in SCALES:
        params = vllm.SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=size,
            ignore_eos=True,
            detokenize=False,
            extra_args={"guidance_scale": scale},
        )
        shaped.engine.add_request(str(scale), {"prompt_token_ids": shaped.prompts[0]}, params)
        (output,) = [each for each in _outputs(shaped.engine) if each.finished]
        given = output.outputs[0].logprobs[0]
        assert set(given) == set(range(first, first + size))
        got = torch.tensor([given[first + code].logprob for code in range(size)])
        expected = (uncond + scale * (cond - uncond)).log_softmax(dim=-1)
        assert (got - expected).abs().max() < 1e-4, f"scale {scale}"


def _outputs(engine: vllm.LLMEngine) -> Iterator[vllm.RequestOutput]:
    while engine.has_unfinished_requests():
        yield from engine.step()


@pytest.mark.parametrize("name", ["phi-3-mini-128k", "phi-4-mini"])
def test_longrope_is_served_at_the_length_before_its_extension(name: str, tmp_path: Path) -> None:
    """Beyond it vLLM would take the long factors for every request, which transformers takes for long ones only."""
    import v2flow_vllm

    build_shaped_llm(tmp_path / name, name)
    assert v2flow_vllm.engine_kwargs(tmp_path / name)["max_model_len"] == 128


def test_the_longest_sequence_is_found_under_every_name() -> None:
    long = {"model_type": "phi3", "max_position_embeddings": 131072}
    assert longest_sequence(long) == 131072
    for kind in ({"type": "su"}, {"type": "yarn"}, {"type": "longrope"}, {"rope_type": "longrope"}):
        outside = {"rope_scaling": kind, "original_max_position_embeddings": 4096}
        inside = {"rope_parameters": kind | {"original_max_position_embeddings": 4096}}
        assert longest_sequence(long | outside) == longest_sequence(long | inside) == 4096
    llama3 = {"rope_parameters": {"rope_type": "llama3", "original_max_position_embeddings": 8192}}
    assert longest_sequence(long | llama3) == 131072
