"""Only what is needed: no second stream and cache without guidance, no head for text, no step too many."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.engine_common import one_thread
from tests.plugins.engines import (
    drain,
    greedy_params,
    runner_of,
    scheduler_of,
    start_engine,
    stop_engine,
    watch_rows,
)
from v2flow_engine.config import load_json

vllm = pytest.importorskip("vllm")
from vllm.exceptions import VLLMValidationError  # noqa: E402

NUM_LAYERS = 2


@pytest.fixture(scope="module", params=[True, False], ids=["guided", "unguided"])
def engine(tiny: SimpleNamespace, request: pytest.FixtureRequest) -> Iterator[vllm.LLMEngine]:
    with one_thread():
        engine = start_engine(tiny.folder, guided=request.param, max_num_seqs=4, kv_cache_gib=1 / 64)
        yield engine
        stop_engine(engine)


def is_guided(engine: vllm.LLMEngine) -> bool:
    return runner_of(engine).model.guided


def params_for(engine: vllm.LLMEngine, **changes: object) -> vllm.SamplingParams:
    extra_args = {"guidance_scale": 3.0} if is_guided(engine) else None
    values = {"max_tokens": 16, "ignore_eos": True, "detokenize": False, "extra_args": extra_args}
    return vllm.SamplingParams(**values | changes)


def test_a_second_cache_only_for_a_second_stream(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """One block table either way; guided, a cache for each stream of a layer, unguided one for the layer."""
    config = scheduler_of(engine).kv_cache_config
    layers = [name for group in config.kv_cache_groups for name in group.layer_names]
    streams = 2 if is_guided(engine) else 1
    assert len(config.kv_cache_groups) == 1
    assert len(layers) == streams * NUM_LAYERS
    assert sum("attn_uncond" in name for name in layers) == (streams - 1) * NUM_LAYERS
    llm = load_json(tiny.folder / "config.json")
    heads, width = llm["num_key_value_heads"], llm["head_dim"]
    block = 2 * scheduler_of(engine).cache_config.block_size * heads * width * 4  # keys and values, float32
    allocated = sum(tensor.size for tensor in config.kv_cache_tensors)
    assert allocated == config.num_blocks * block * streams * NUM_LAYERS <= 2**30 // 64


def test_a_second_stream_only_when_guided(
    tiny: SimpleNamespace, engine: vllm.LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows through the network for a step's tokens: twice as many guided, no more than they unguided."""
    rows, inner = watch_rows(engine, monkeypatch), []
    layer = runner_of(engine).model.model.layers[0].mlp
    handle = layer.register_forward_hook(lambda _module, args, _output: inner.append(len(args[0])))
    engine.add_request("rows", {"prompt_token_ids": tiny.prompts[0]}, params_for(engine))
    drain(engine)
    handle.remove()
    assert rows and inner == [each * (2 if is_guided(engine) else 1) for each in rows]


def test_no_step_too_many(
    tiny: SimpleNamespace, engine: vllm.LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt and then each token but the last is read once; the last one ends the request."""
    rows = watch_rows(engine, monkeypatch)
    engine.add_request("steps", {"prompt_token_ids": tiny.prompts[2]}, params_for(engine, max_tokens=9))
    assert len(drain(engine)["steps"]) == 9
    assert rows == [len(tiny.prompts[2]), *[1] * 8]


def test_the_head_is_computed_for_visual_rows_alone(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    model = runner_of(engine).model
    streams, width = (2 if is_guided(engine) else 1), model.config.hidden_size
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        logits = model.compute_logits(torch.randn(3, streams * width))
    codebook, first = tiny.vocabulary.codebook_size, tiny.vocabulary.visual_offset
    assert counter.get_total_flops() == 2 * 3 * streams * width * codebook
    assert logits.shape == (3, model.config.vocab_size)
    finite = logits.isfinite().all(dim=0)
    assert finite.nonzero()[:, 0].tolist() == list(range(first, first + codebook))


def test_sampling_acts_on_the_visual_rows(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """32 seeds of a first token: each is drawn from the top-p (top-k, min-p) set of the guided visual logits alone."""
    scale, prompt, heat, first = 3.0, tiny.prompts[0], 1.5, tiny.vocabulary.visual_offset
    ids = torch.tensor(prompt)
    logits = tiny.loop.visual_logits(ids)
    if is_guided(engine):
        uncond = tiny.loop.visual_logits(tiny.vocabulary.unconditional_ids(ids))
        logits = uncond + scale * (logits - uncond)
    likely = (logits / heat).softmax(dim=0).sort(descending=True)
    kept = int((likely.values.cumsum(dim=0) < 0.3).sum()) + 1
    assert 2 <= kept <= 16
    above = int((likely.values >= 0.5 * likely.values[0]).sum())

    def drawn(**limits: float) -> set[int]:
        for seed in range(32):
            params = params_for(engine, max_tokens=1, temperature=heat, seed=seed, **limits)
            engine.add_request(f"{limits}{seed}", {"prompt_token_ids": prompt}, params)
        return {written[0] - first for written in drain(engine).values()}

    def set_of(count: int) -> set[int]:
        return set(likely.indices[:count].tolist())

    free = drawn()
    assert free <= set(range(tiny.vocabulary.codebook_size)) and len(free) > kept
    assert drawn(top_p=1e-6) == set_of(1)
    assert drawn(top_p=0.3) <= set_of(kept)
    assert drawn(top_k=3) <= set_of(3)
    assert drawn(min_p=0.5) <= set_of(above)


def test_a_seed_gives_the_same_tokens_in_any_batch(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """Alone, among others, after others, in another order: float32 on a CPU."""
    asked = {f"s{i}": (tiny.prompts[i], params_for(engine, seed=70 + i, top_p=0.9)) for i in range(6)}

    def run(names: list[str]) -> dict[str, list[int]]:
        for name in names:
            prompt, params = asked[name]
            engine.add_request(name, {"prompt_token_ids": prompt}, params.clone())
        return drain(engine)

    together = run(list(asked))
    assert len({tuple(tokens) for tokens in together.values()}) == 6
    assert run(list(asked)[::-1]) == together
    assert run(["s4"]) | run(["s1", "s3"]) == {name: together[name] for name in ("s4", "s1", "s3")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"allowed_token_ids": [5]}, "allowed_token_ids is not available"),
        ({"extra_args": {"guidance_scale": 3.0, "negative_prompt": "dull"}}, "negative prompts are not supp"),
    ],
)
def test_what_cannot_be_done_is_refused(
    tiny: SimpleNamespace, engine: vllm.LLMEngine, changes: dict[str, object], message: str
) -> None:
    with pytest.raises((ValueError, VLLMValidationError), match=message):
        engine.add_request("no", {"prompt_token_ids": tiny.prompts[0]}, params_for(engine, **changes))
    assert not engine.has_unfinished_requests()


def test_guidance_is_not_ignored_by_an_unguided_engine(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    if is_guided(engine):
        pytest.skip("it guides")
    prompt = {"prompt_token_ids": tiny.prompts[0]}
    with pytest.raises(
        (ValueError, VLLMValidationError), match=r"unguided .* must be 1 or left out, got 3\.0"
    ):
        engine.add_request("no", prompt, greedy_params(3.0, 4))
    engine.add_request("one", prompt, greedy_params(1.0, 4))
    assert drain(engine)["one"] == tiny.loop.greedy(tiny.prompts[0], 4, None)
