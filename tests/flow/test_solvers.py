"""Solvers on fields whose exact answer is known."""

from itertools import pairwise

import pytest
import torch

from v2flow_engine import config
from v2flow_engine.config import FlowConfig
from v2flow_engine.flow.dopri5 import dopri5
from v2flow_engine.flow.path import interpolate, net_time, sample_time, to_velocity
from v2flow_engine.flow.solvers import SOLVERS, dpm_solver_pp_2m, euler, heun, shifted_noise_levels
from v2flow_engine.training.draws import draws_of

DATA = torch.tensor([[1.0, -2.0, 0.5]])


@pytest.mark.parametrize("solver", SOLVERS.values())
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_a_straight_path_is_integrated_exactly(solver, steps: int) -> None:
    noise = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))

    def field(x_t: torch.Tensor, t: float) -> torch.Tensor:
        return (DATA - x_t) / (1.0 - t) if t < 1 else DATA - noise

    torch.testing.assert_close(solver(field, noise, steps), DATA, rtol=1e-4, atol=1e-4)


def gaussian_field(x_t: torch.Tensor, t: float) -> torch.Tensor:
    """The marginal velocity when data ~ N(0, 0.25): x_t then scales with sqrt((1-t)^2 + 0.25 t^2)."""
    variance = (1 - t) ** 2 + 0.25 * t**2
    return x_t * (0.25 * t - (1 - t)) / variance


@pytest.mark.parametrize("solver", [euler, heun, dpm_solver_pp_2m])
def test_error_shrinks_with_the_order_of_the_solver(solver) -> None:
    noise = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    errors = [float((solver(gaussian_field, noise, n) - 0.5 * noise).abs().max()) for n in (16, 32)]
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / (1.5 if solver is not heun else 3)


def test_dopri5_is_exact_to_its_tolerance_whatever_the_steps() -> None:
    noise = torch.tensor([[2.0, -1.0]])
    once, often = dopri5(gaussian_field, noise, 1), dopri5(gaussian_field, noise, 100)
    assert torch.equal(once, often)
    torch.testing.assert_close(once, 0.5 * noise, rtol=1e-4, atol=1e-4)


def test_a_config_names_the_solvers_that_there_are() -> None:
    assert set(config.SOLVERS) == set(SOLVERS)


def test_noise_levels_fall_from_almost_one_to_zero() -> None:
    levels = shifted_noise_levels(20, 3.0)
    assert len(levels) == 21 and levels[-1] == 0 and 0.999 < levels[0] < 1
    assert all(a > b for a, b in pairwise(levels))


@pytest.mark.parametrize("method", ["linear_flow", "CondOT"])
def test_conventions_agree_on_the_ends_of_the_path(method: str) -> None:
    flow = FlowConfig(method=method)
    noise, data = torch.zeros(1, 2), torch.ones(1, 2)
    assert torch.equal(interpolate(noise, data, torch.tensor([0.0])), noise)
    assert torch.equal(interpolate(noise, data, torch.tensor([1.0])), data)
    output = noise - data if method == "linear_flow" else data - noise
    assert torch.equal(to_velocity(flow, output), data - noise)
    assert net_time(flow, torch.tensor(0.0)) == (1000.0 if method == "linear_flow" else 0.0)
    times = sample_time(flow, 1000, draws_of(0, 0, 0, 3, torch.device("cpu")))
    assert times.shape == (3, 1000) and times.min() > 0 and times.max() < 1
