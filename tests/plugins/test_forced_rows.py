"""Which row is forced to what, without an engine: the logits, and how the V2 model runner's step is read."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.tiny_llm import tiny_vocabulary
from v2flow_engine.config import to_dict

vllm = pytest.importorskip("vllm")
interface = pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor.interface")

VOCABULARY = tiny_vocabulary(10, 8, {"32x32": [2, 2]})
FIRST = VOCABULARY.visual_offset
PROMPT_LENGTHS = [5, 3, 7]  # by slot


def params(forced: list[int | None] | None) -> vllm.SamplingParams:
    return vllm.SamplingParams(max_tokens=4, extra_args={"forced_visual_token_ids": forced})


def step(slots: list[int], lengths: list[int]) -> interface.LogitsContext:
    """A step of the V2 runner whose rows are the requests of these slots, `lengths` tokens long."""
    rows = torch.tensor(slots)
    return interface.LogitsContext(
        expanded_idx_mapping=rows,
        idx_mapping=rows,
        idx_mapping_np=rows.numpy(),
        expanded_local_pos=torch.zeros_like(rows),
        input_ids=rows,
        pos=torch.tensor(lengths) - 1,
        seq_lens_upper_bound_np=np.array(lengths, dtype=np.int32),
    )


@pytest.fixture
def processor():
    """As the V2 runner builds it; of the runner's buffers, the one that is read."""
    from v2flow_vllm.forced import ForcedTokensProcessor

    config = SimpleNamespace(v2flow=to_dict(VOCABULARY), vocab_size=FIRST + 8)
    states = SimpleNamespace(prompt_len=SimpleNamespace(np=np.array(PROMPT_LENGTHS)))
    return ForcedTokensProcessor(SimpleNamespace(model_config=SimpleNamespace(hf_config=config)), states)


def test_one_finite_logit_is_left() -> None:
    from v2flow_vllm.forced import force_rows

    logits = torch.randn(4, FIRST + 8)
    before = logits.clone()
    force_rows(logits, {1: FIRST + 2, 3: FIRST})
    assert torch.equal(logits[[0, 2]], before[[0, 2]])
    assert logits[[1, 3]].argmax(dim=1).tolist() == [FIRST + 2, FIRST]
    assert logits[[1, 3]].isfinite().sum(dim=1).tolist() == [1, 1]


def test_rows_of_the_v2_runner_are_slots_in_any_order(processor) -> None:
    forced = [None, FIRST + 1, FIRST + 2, None]
    assert processor.add_request(0, params(forced))
    assert not processor.add_request(1, params(None))
    assert processor.add_request(2, params([FIRST + 7, None, None, None]))

    def chosen(slots: list[int], lengths: list[int]) -> list[int | None]:
        logits = torch.zeros(len(slots), FIRST + 8)
        processor.apply(logits, step(slots, lengths))
        return [int(row.argmax()) if row.isneginf().any() else None for row in logits]

    assert chosen([2, 1, 0], [7, 3, 5]) == [FIRST + 7, None, None]  # right after their prompts
    assert chosen([0, 1, 2], [6, 4, 8]) == [FIRST + 1, None, None]
    assert chosen([1, 0], [9, 7]) == [None, FIRST + 2]
    assert chosen([2, 0], [3, 8]) == [None, None]  # a prompt that is read in pieces; a free position
    assert not processor.add_request(0, params([None] * 4))  # the next request in the slot
    assert chosen([0], [6]) == [None]
