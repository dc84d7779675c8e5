"""Random numbers of samples: each sample's are its own, and as random as they should be, from generators or hashed."""

from __future__ import annotations

import pytest
import torch

from v2flow_engine.training.draws import Draws, GeneratorDraws, HashedDraws, draws_of

CPU = torch.device("cpu")
both = pytest.mark.parametrize("kind", [GeneratorDraws, HashedDraws])


def test_a_processor_has_generators_and_others_hash() -> None:
    assert isinstance(draws_of(0, 0, 0, 2, CPU), GeneratorDraws)
    assert isinstance(draws_of(0, 0, 0, 2, torch.device("meta")), HashedDraws)


@both
def test_a_sample_s_numbers_are_its_own(kind: type[Draws]) -> None:
    whole, last = kind(7, 3, 0, 4, CPU), kind(7, 3, 3, 1, CPU)
    for shape in ((), (2, 3), (64,)):
        assert torch.equal(whole.randn(*shape)[3:], last.randn(*shape))
        values = whole.rand(*shape)
        assert values.shape == (4, *shape) and values.dtype == torch.float32
        assert torch.equal(values[3:], last.rand(*shape)) and values.unique().numel() == values.numel()
    assert torch.equal(whole.randint(50)[3:], last.randint(50))
    others = [kind(seed, step, 0, 4, CPU).rand() for seed, step in ((7, 3), (7, 4), (8, 3), (3, 7))]
    assert torch.stack(others).unique().numel() == 16


@both
def test_moments_and_neighbours(kind: type[Draws]) -> None:
    """Means, variances, and no tie between samples, steps, or one number and the next. Errors are of 5 deviations."""
    draws = kind(0, 0, 0, 64, CPU)
    uniform, normal, again = draws.rand(2000), draws.randn(2000), draws.rand(2000)
    count = uniform.numel()
    assert 0 <= uniform.min() < 1e-4 and 1 - 1e-4 < uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=5 * (12 * count) ** -0.5)
    assert uniform.var() == pytest.approx(1 / 12, rel=0.02)
    assert normal.mean() == pytest.approx(0, abs=5 * count**-0.5)
    assert normal.var() == pytest.approx(1, rel=0.02)
    assert (normal**4).mean() == pytest.approx(3, rel=0.05) and normal.abs().max() < 6
    next_step = kind(0, 1, 0, 64, CPU).rand(2000)
    pairs = [(uniform[:, 1:], uniform[:, :-1]), (uniform[1:], uniform[:-1]), (uniform, again)]
    for left, right in [*pairs, (uniform, next_step)]:
        correlation = torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1]
        assert abs(correlation) < 5 * count**-0.5


@both
def test_whole_numbers_are_equally_likely(kind: type[Draws]) -> None:
    draws = kind(1, 2, 0, 500, CPU)
    found = torch.cat([draws.randint(5) for _ in range(40)]).bincount(minlength=5)
    assert len(found) == 5 and found.sum() == 20_000
    assert ((found - 4000).abs() < 5 * 3200**0.5).all()


def test_hashed_bits_are_those_of_splitmix64() -> None:
    """The published test values: three numbers after the seed 1234567 (Vigna's splitmix64.c)."""
    from v2flow_engine.training.draws import _GAMMA, _mixed

    states = torch.tensor([1234567]) + torch.arange(3) * _GAMMA
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [int(value) % 2**64 for value in _mixed(states)] == expected
