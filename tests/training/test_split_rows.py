"""An LLM whose embedding and head are in two weights computes, and learns, what it does in one."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from tests.shaped_llm import random_llm
from v2flow_engine.training.split_rows import joined, rows_from, split_rows, trained_rows

TEXT = 11


def llm(tied: bool) -> PreTrainedModel:
    return random_llm(20, model_type="llama", tie_word_embeddings=tied)


@pytest.mark.parametrize("tied", [True, False])
def test_a_split_model_computes_and_learns_the_same(tied: bool) -> None:
    whole, ids = llm(tied), torch.tensor([[0, 3, TEXT - 1, TEXT, 19, 12]])
    split = copy.deepcopy(whole)
    split_rows(split, TEXT)
    assert len(trained_rows(split)) == (1 if tied else 2)
    losses = [net(input_ids=ids, labels=ids).loss for net in (whole, split)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    pairs = {id(net_rows): net_rows for net_rows in trained_rows(split)}
    for module in ("get_input_embeddings", "get_output_embeddings"):
        was, now = getattr(whole, module)(), getattr(split, module)()
        torch.testing.assert_close(now.rows.grad, was.weight.grad[TEXT:])
        assert now.text.grad is None and id(now.rows) in pairs
        assert torch.equal(rows_from(was, TEXT), rows_from(now, TEXT))
    torch.testing.assert_close(
        split.model.layers[0].mlp.up_proj.weight.grad, whole.model.layers[0].mlp.up_proj.weight.grad
    )


@pytest.mark.parametrize("tied", [True, False])
def test_a_copy_joins_to_the_state_before(tied: bool) -> None:
    whole = llm(tied)
    before = copy.deepcopy(whole.state_dict())
    split_rows(whole, TEXT)
    assert not any(key.endswith("embed_tokens.weight") for key in whole.state_dict())
    other = copy.deepcopy(whole)
    assert len(trained_rows(other)) == (1 if tied else 2)
    with torch.no_grad():
        trained_rows(other)[0].add_(1)  # its own, not the first one's
    after = joined(whole, whole.state_dict())
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in after)


def test_frozen_text_may_be_narrower() -> None:
    """Its rows come out in the dtype of the trained ones, so that nothing behind them is narrower."""
    net = llm(tied=True)
    text = net.get_input_embeddings().weight[:TEXT].detach().clone()
    split_rows(net, TEXT, torch.bfloat16)
    found = net.get_input_embeddings()(torch.arange(20))
    assert found.dtype == torch.float32
    assert torch.equal(found[:TEXT], text.to(torch.bfloat16).float())
