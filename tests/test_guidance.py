"""Guidance schedules: exact values, and the same ones where the V2 model runner computes them on the device."""

from __future__ import annotations

import pytest
import torch

from v2flow_engine.guidance import UNGUIDED, Guidance


def test_linear_grows_from_one_to_the_scale() -> None:
    assert [Guidance(5.0, "linear", 4).at(i) for i in range(4)] == [2.0, 3.0, 4.0, 5.0]
    assert [Guidance(0.0, "linear", 4).at(i) for i in range(4)] == [0.75, 0.5, 0.25, 0.0]
    assert Guidance(5.0, "linear", 4, start=2).at(0) == 4.0
    assert Guidance(0.1, "linear", 1).at(0) == 0.1  # the scale itself, not 1 + (0.1 - 1)


def test_constant_is_the_scale_everywhere() -> None:
    assert {Guidance(0.1, "constant", 4).at(i) for i in range(9)} == {0.1}
    assert UNGUIDED.at(3) == 1.0


def test_the_device_computes_the_same() -> None:
    """Slots of the V2 runner, by what it knows: the prompt's length and the sequence's."""
    pytest.importorskip("vllm")
    from v2flow_vllm.model_state import scales_at, slot_values

    asked = [Guidance(0.1), Guidance(7.3, "linear", 64), Guidance(7.3, "linear", 64, start=60), UNGUIDED]
    prompts, written = [5, 19, 23, 1], [63, 12, 3, 0]
    values = torch.tensor([slot_values(g, n) for g, n in zip(asked, prompts, strict=True)])
    lengths = torch.tensor([n + w for n, w in zip(prompts, written, strict=True)], dtype=torch.int32)
    expected = torch.tensor([[g.at(w)] for g, w in zip(asked, written, strict=True)])
    assert torch.allclose(scales_at(values, lengths), expected, rtol=1e-6, atol=0)
    assert torch.equal(scales_at(values, lengths)[[0, 2, 3]], expected[[0, 2, 3]])  # whole shares are exact
    inside_a_prompt = scales_at(values, torch.ones(4, dtype=torch.int32))
    assert inside_a_prompt[:, 0].tolist() == [pytest.approx(0.1), 1.0, pytest.approx(1 + 6.3 * 39 / 64), 1.0]
