"""More prompts than a step has room for, each with a seed: the same tokens as alone."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.engine_common import one_thread
from tests.plugins.engines import drain, scheduler_of, start_engine, stop_engine, watch_rows

vllm = pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def engine(tiny: SimpleNamespace) -> Iterator[vllm.LLMEngine]:
    with one_thread():
        engine = start_engine(tiny.folder, max_num_seqs=8, max_model_len=128, max_num_batched_tokens=128)
        yield engine
        stop_engine(engine)


def ask(engine: vllm.LLMEngine, prompt: list[int], seed: int) -> None:
    params = vllm.SamplingParams(
        temperature=1.0,
        seed=seed,
        max_tokens=8,
        ignore_eos=True,
        detokenize=False,
        extra_args={"guidance_scale": 2.0},
    )
    engine.add_request(str(seed), {"prompt_token_ids": prompt}, params)


def test_seeded_prompts_that_do_not_fit_a_step(
    tiny: SimpleNamespace, engine: vllm.LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bos, *text = tiny.prompts[0]
    prompts = [[bos, *[text[0]] * (40 + index), *text] for index in range(6)]
    alone = {}
    for seed, prompt in enumerate(prompts):
        ask(engine, prompt, seed)
        alone |= drain(engine)
    rows = watch_rows(engine, monkeypatch)
    for seed, prompt in enumerate(prompts):
        ask(engine, prompt, seed)
    assert drain(engine) == alone
    assert sum(map(len, prompts)) > 2 * scheduler_of(engine).scheduler_config.max_num_batched_tokens
    assert max(rows) <= 2 * 128 and len({tuple(ids) for ids in alone.values()}) == 6
