"""The plugin in a plain vLLM engine, built from `engine_kwargs` alone, against the two-pass loop."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from tests.engine_common import one_thread
from tests.plugins.engines import NUM_TOKENS, drain, greedy_params, start_engine, stop_engine

vllm = pytest.importorskip("vllm")
from vllm.exceptions import VLLMValidationError  # noqa: E402

SCALES = (1.0, 1.5, 3.0, 5.0, 3.0, 7.5)


@pytest.fixture(scope="module")
def engine(tiny: SimpleNamespace) -> Iterator[vllm.LLMEngine]:
    """Four rows for six prompts and 24 tokens a step: requests queue, prompts arrive in pieces, rows move."""
    with one_thread():
        engine = start_engine(tiny.folder, max_num_seqs=4, max_num_batched_tokens=24)
        yield engine
        stop_engine(engine)


def test_greedy_tokens_equal_the_two_pass_loop(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """Six prompts of different lengths, scales 1 to 7.5, one batch: every position is equal."""
    for index, (prompt, scale) in enumerate(zip(tiny.prompts, SCALES, strict=True)):
        engine.add_request(str(index), {"prompt_token_ids": prompt}, greedy_params(scale))
    written = drain(engine)
    for index, (prompt, scale) in enumerate(zip(tiny.prompts, SCALES, strict=True)):
        assert written[str(index)] == tiny.loop.greedy(prompt, NUM_TOKENS, scale), (
            f"prompt {index}, scale {scale}"
        )


def test_schedules_and_scales_share_a_batch(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """Linear, constant and unnamed schedules, images of three lengths, rows that move: all as the two-pass loop."""
    asked = [("linear", 6.0, 40), (None, 3.0, 64), ("constant", 5.0, 17), ("linear", 0.0, 64)]
    asked += [("linear", 9.0, 17), ("linear", 2.0, 1)]
    for index, (prompt, (schedule, scale, length)) in enumerate(zip(tiny.prompts, asked, strict=True)):
        params = greedy_params(scale, length, schedule=schedule)
        engine.add_request(f"schedule{index}", {"prompt_token_ids": prompt}, params)
    written = drain(engine)
    for index, (prompt, (schedule, scale, length)) in enumerate(zip(tiny.prompts, asked, strict=True)):
        expected = tiny.loop.greedy(prompt, length, scale, guidance_schedule=schedule or "constant")
        assert written[f"schedule{index}"] == expected, f"prompt {index}: {schedule} {scale}"
    assert written["schedule0"] != tiny.loop.greedy(tiny.prompts[0], 40, 6.0)


def test_a_linear_schedule_goes_on_behind_what_the_prompt_brings(
    tiny: SimpleNamespace, engine: vllm.LLMEngine
) -> None:
    """The first 10 of 40 tokens in the prompt, the last 5 not asked for: the 25 between are the same."""
    whole = tiny.loop.greedy(tiny.prompts[1], 40, 6.0, guidance_schedule="linear")
    params = greedy_params(6.0, 25, schedule="linear")
    params.extra_args |= {"guidance_first_position": 10, "guidance_num_positions": 40}
    engine.add_request("part", {"prompt_token_ids": [*tiny.prompts[1], *whole[:10]]}, params)
    assert drain(engine)["part"] == whole[10:35]


def test_scale_decides_and_one_is_the_plain_model(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """One prompt at 0, 1 and 5: 1 is the conditional LLaMA, 0 forgets the prompt, 5 is something else."""
    for scale in (0.0, 1.0, 5.0):
        for index in (0, 1):
            engine.add_request(
                f"{scale}-{index}", {"prompt_token_ids": tiny.prompts[index]}, greedy_params(scale, 16)
            )
    written = drain(engine)
    assert written["1.0-0"] == tiny.loop.greedy(tiny.prompts[0], 16, None)
    assert written["5.0-0"] != written["1.0-0"]
    nulls = [int(i) for i in tiny.vocabulary.unconditional_ids(torch.tensor(tiny.prompts[0]))]
    assert written["0.0-0"] == tiny.loop.greedy(nulls, 16, None) != written["1.0-0"]


def test_abort_leaves_the_others_alone(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """One leaves half way, others of another length and scale take its row; all write what they should."""
    for index, scale in ((0, 2.0), (1, 6.0), (2, 4.0)):
        engine.add_request(f"stay{index}", {"prompt_token_ids": tiny.prompts[index]}, greedy_params(scale))
    for _ in range(10):
        engine.step()
    engine.abort_request(["stay0"])
    engine.add_request("late", {"prompt_token_ids": tiny.prompts[3]}, greedy_params(3.0, 5))
    engine.add_request("later", {"prompt_token_ids": tiny.prompts[4]}, greedy_params(1.0, 20))
    written = drain(engine)
    assert set(written) == {"stay1", "stay2", "late", "later"}
    assert written["stay1"] == tiny.loop.greedy(tiny.prompts[1], NUM_TOKENS, 6.0)
    assert written["stay2"] == tiny.loop.greedy(tiny.prompts[2], NUM_TOKENS, 4.0)
    assert written["late"] == tiny.loop.greedy(tiny.prompts[3], 5, 3.0)
    assert written["later"] == tiny.loop.greedy(tiny.prompts[4], 20, 1.0)


def test_forced_tokens_come_out_and_are_gone_on_from(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """Forced and free requests in one batch, rows moving, one aborted: all as the two-pass loop has them."""
    first, generator = tiny.vocabulary.visual_offset, torch.Generator().manual_seed(3)
    forced: dict[int, list[int | None] | None] = dict.fromkeys(range(6))
    for index in (0, 2, 3, 5):
        ids = (torch.randint(64, (NUM_TOKENS,), generator=generator) + first).tolist()
        free = torch.rand(NUM_TOKENS, generator=generator) < (0.5 if index else 0.0)
        forced[index] = [None if each else i for i, each in zip(ids, free.tolist(), strict=True)]
    for index, (prompt, scale) in enumerate(zip(tiny.prompts, SCALES, strict=True)):
        params = greedy_params(scale, forced=forced[index])
        engine.add_request(f"forced{index}", {"prompt_token_ids": prompt}, params)
    for _ in range(9):
        engine.step()
    engine.abort_request(["forced2"])
    written = drain(engine)
    assert written["forced0"] == forced[0]
    for index in (0, 1, 3, 4, 5):
        expected = tiny.loop.greedy(tiny.prompts[index], NUM_TOKENS, SCALES[index], forced[index])
        assert written[f"forced{index}"] == expected, f"prompt {index}"


def test_an_id_of_another_vocabulary_is_left_free(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """A raw request is not checked against the vocabulary at the door; it must not end the engine."""
    known = tiny.vocabulary.visual_offset + 7
    params = greedy_params(2.0, 4, [10**6, 5, known, None])
    engine.add_request("foreign", {"prompt_token_ids": tiny.prompts[0]}, params)
    expected = tiny.loop.greedy(tiny.prompts[0], 4, 2.0, [None, None, known, None])
    assert drain(engine)["foreign"] == expected


@pytest.mark.parametrize(
    "extra_args, message",
    [
        (None, "guidance_scale"),
        ({"guidance_scale": "3"}, "number"),
        ({"guidance_scale": True}, "number"),
        ({"guidance_scale": -0.5}, r"\[0, 100\]"),
        ({"guidance_scale": float("nan")}, r"\[0, 100\]"),
        ({"guidance_scale": 2, "guidance_schedule": "cosine"}, "constant or linear, got 'cosine'"),
        ({"guidance_scale": 2, "guidance_num_positions": 0}, "from 1 on, got 0"),
        ({"guidance_scale": 2, "guidance_first_position": 1.5}, "from 0 on, got 1.5"),
        ({"guidance_scale": 2, "guidance_shedule": "linear"}, "unknown 'guidance_shedule'"),
        ({"guidance_scale": 2, "negative_prompt": "blurry"}, "negative prompts are not supported"),
        ({"guidance_scale": 2, "negative_prompt_token_ids": [5]}, "negative prompts are not supported"),
        ({"guidance_scale": 1.0, "forced_visual_token_ids": [400]}, "each of the 2 tokens .* got 1 entries"),
        ({"guidance_scale": 1.0, "forced_visual_token_ids": "ab"}, "got 'ab'"),
        ({"guidance_scale": 1.0, "forced_visual_token_ids": [None, 1.5]}, "whole numbers or None, got 1.5"),
    ],
)
def test_bad_scale_is_refused_at_the_door(
    tiny: SimpleNamespace, engine: vllm.LLMEngine, extra_args: dict[str, object] | None, message: str
) -> None:
    """A raw request without a usable scale never reaches the model, where it would be unguided."""
    params = vllm.SamplingParams(max_tokens=2, extra_args=extra_args)
    with pytest.raises((ValueError, VLLMValidationError), match=message):
        engine.add_request("bad", {"prompt_token_ids": tiny.prompts[0]}, params)
    assert not engine.has_unfinished_requests()


def test_model_without_its_processor_refuses_to_start(tiny: SimpleNamespace, engine: vllm.LLMEngine) -> None:
    """Scales that nobody writes are an error on the first logits, not guidance that is silently off."""
    from v2flow_vllm.scales import RowScales

    with pytest.raises(RuntimeError, match="do not reach this model"):
        RowScales().first(1)


def test_rows_beyond_the_requests_are_those_of_an_unguided_warm_up(tiny: SimpleNamespace) -> None:
    """vLLM's V2 runner asks for the log-probabilities of prompts before it serves; later nobody may."""
    from v2flow_vllm.scales import RowScales

    scales = RowScales()
    rows = scales.open(4, torch.device("cpu"))
    assert torch.equal(scales.first(6), torch.ones(6, 1))
    rows[2] = 3.0
    assert torch.equal(scales.first(3)[:, 0], torch.tensor([1.0, 1.0, 3.0]))
    with pytest.raises(RuntimeError, match="6 rows of logits for 4 requests"):
        scales.first(6)
