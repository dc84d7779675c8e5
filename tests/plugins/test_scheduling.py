"""Both streams under all that vLLM's scheduler does: each test compares with the two-pass loop, and asserts that what
it is about has happened.

One engine with little of everything: 6 blocks of 32 tokens where four images need 12, 7 tokens a step where prompts
have more, and prefix caching.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.engine_common import one_thread
from tests.plugins.engines import (
    drain,
    greedy_params,
    scheduler_of,
    start_engine,
    stop_engine,
    watch_rows,
)

vllm = pytest.importorskip("vllm")

BLOCK = 32
NUM_BLOCKS = 6
TOKENS_A_STEP = 7
ASKED = [("linear", 6.0, 64), ("constant", 3.0, 64), ("linear", 2.0, 50), ("constant", 1.0, 64)]


@pytest.fixture(scope="module")
def engine(tiny: SimpleNamespace) -> Iterator[vllm.LLMEngine]:
    settings = {"block_size": BLOCK, "num_gpu_blocks_override": NUM_BLOCKS + 1, "enable_prefix_caching": True}
    with one_thread():
        engine = start_engine(
            tiny.folder, max_num_seqs=4, max_num_batched_tokens=TOKENS_A_STEP, kv_cache_gib=1 / 64, **settings
        )
        assert scheduler_of(engine).cache_config.num_gpu_blocks == NUM_BLOCKS + 1  # one is vLLM's own
        yield engine
        stop_engine(engine)


@pytest.fixture(autouse=True)
def forgotten(engine: vllm.LLMEngine) -> None:
    """No test finds another's prompts in the prefix cache."""
    assert engine.reset_prefix_cache()


def preempted(engine: vllm.LLMEngine) -> dict[str, int]:
    """How often each unfinished request was preempted, by the scheduler's own count."""
    return {
        each.request_id: each.num_preemptions
        for each in scheduler_of(engine).requests.values()
        if each.num_preemptions
    }


def ask(engine: vllm.LLMEngine, tiny: SimpleNamespace, name: str) -> None:
    for index, (schedule, scale, length) in enumerate(ASKED):
        params = greedy_params(scale, length, schedule=schedule)
        engine.add_request(f"{name}{index}", {"prompt_token_ids": tiny.prompts[index]}, params)


def expected(tiny: SimpleNamespace, index: int) -> list[int]:
    schedule, scale, length = ASKED[index]
    return tiny.loop.greedy(tiny.prompts[index], length, scale, guidance_schedule=schedule)


def test_preempted_requests_go_on_where_they_were(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """Both caches of a preempted request are thrown away and computed anew, its scale and its position stay."""
    ask(engine, tiny, "p")
    written, counts = {}, {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                written[output.request_id] = list(output.outputs[0].token_ids)
        counts |= preempted(engine)
    assert sum(counts.values()) >= 2
    for index in range(len(ASKED)):
        assert written[f"p{index}"] == expected(tiny, index), f"prompt {index}, preempted: {counts}"


def test_shared_prefixes_are_read_once_for_both_streams(
    tiny: SimpleNamespace, engine: vllm.LLMEngine
) -> None:
    """A block found in the cache holds the keys of both streams; scale and schedule are no part of it."""
    prompt = [*tiny.prompts[1][:-2], *tiny.prompts[2][1:]]
    assert len(prompt) > BLOCK + 4
    first = tiny.loop.greedy(prompt, 20, 4.0)
    others = {
        "first": (prompt, 4.0, None),
        "same": (prompt, 4.0, None),
        "other scale": (prompt, 7.0, None),
        "growing": (prompt, 7.0, "linear"),
        "into the image": ([*prompt, *first], 4.0, None),
        "other text": ([*prompt[: BLOCK + 2], *tiny.prompts[5][-10:]], 4.0, None),
    }
    plain = {
        name: tiny.loop.greedy(ids, 20, scale, guidance_schedule=schedule or "constant")
        for name, (ids, scale, schedule) in others.items()
    }

    def run(names: list[str]) -> tuple[dict[str, list[int]], dict[str, int]]:
        for name in names:
            ids, scale, schedule = others[name]
            engine.add_request(name, {"prompt_token_ids": ids}, greedy_params(scale, 20, schedule=schedule))
        written, cached = {}, {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    written[output.request_id] = list(output.outputs[0].token_ids)
                    cached[output.request_id] = output.num_cached_tokens
        return written, cached

    for name in others:  # one after another
        written, cached = run([name])
        assert written[name] == plain[name], name
        assert cached[name] >= BLOCK or name == "first", f"{name}: {cached}"
    assert engine.reset_prefix_cache()
    written, cached = run(list(others))  # at once, where some read what others have just written
    assert written == plain
    assert max(cached.values()) >= BLOCK


def test_prompts_read_in_pieces(
    tiny: SimpleNamespace, engine: vllm.LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven tokens a step, the decode steps of others among them."""
    rows = watch_rows(engine, monkeypatch)
    for index in range(3):
        params = greedy_params(5.0, 12, schedule=("linear", None, None)[index])
        engine.add_request(f"c{index}", {"prompt_token_ids": tiny.prompts[index]}, params)
    written = drain(engine)
    assert max(rows) == TOKENS_A_STEP < min(len(p) for p in tiny.prompts)
    assert sum(rows) == sum(len(p) for p in tiny.prompts[:3]) + 3 * 11  # nothing is read twice
    for index in range(3):
        plain = tiny.loop.greedy(
            tiny.prompts[index], 12, 5.0, None, ("linear", "constant", "constant")[index]
        )
        assert written[f"c{index}"] == plain


def test_aborts_of_the_preempted_and_the_half_read(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """One aborted while preempted, one inside its prompt; the rest, and who comes after, write what they should."""
    ask(engine, tiny, "a")
    while not preempted(engine):
        engine.step()
    out = next(iter(preempted(engine))).partition("-")[0]
    engine.add_request("half", {"prompt_token_ids": tiny.prompts[4]}, greedy_params(8.0))
    engine.step()
    engine.abort_request([out, "half"])
    engine.add_request("after", {"prompt_token_ids": tiny.prompts[5]}, greedy_params(2.5, 30))
    engine.add_request("again", {"prompt_token_ids": tiny.prompts[4]}, greedy_params(4.0, 30))
    written = drain(engine)
    stayed = [index for index in range(len(ASKED)) if f"a{index}" != out]
    assert set(written) == {"after", "again", *(f"a{index}" for index in stayed)}
    for index in stayed:
        assert written[f"a{index}"] == expected(tiny, index)
    assert written["after"] == tiny.loop.greedy(tiny.prompts[5], 30, 2.5)
    assert written["again"] == tiny.loop.greedy(tiny.prompts[4], 30, 4.0)
