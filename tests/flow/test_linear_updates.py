"""Solvers as data against the solvers as loops."""

import pytest
import torch

from v2flow_engine.errors import RequestError
from v2flow_engine.flow.linear_updates import LINEAR_SOLVERS, linear_updates
from v2flow_engine.flow.solvers import SOLVERS, Field, get_solver


def curved(x_t: torch.Tensor, t: float) -> torch.Tensor:
    """A field that is neither linear in x_t nor constant in time."""
    return torch.sin(3.0 * x_t) * (1.0 - t) + t * t - 0.4 * x_t


def run(field: Field, noise: torch.Tensor, solver: str, steps: int, shift: float) -> torch.Tensor:
    """The loop that the engine runs for one image."""
    updates = linear_updates(solver, steps, shift)
    x_t, memory = noise, torch.zeros_like(noise)
    for t, (a, b, c, d, e, f) in zip(updates.times, updates.coefficients, strict=True):
        velocity = field(x_t, t)
        x_t, memory = a * x_t + b * memory + c * velocity, d * x_t + e * memory + f * velocity
    return x_t


@pytest.mark.parametrize("solver", sorted(LINEAR_SOLVERS))
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_updates_are_the_solver(solver: str, steps: int, shift: float) -> None:
    noise = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = get_solver(solver)(curved, noise, steps, shift)
    torch.testing.assert_close(run(curved, noise, solver, steps, shift), expected, rtol=1e-10, atol=1e-10)


def test_every_solver_has_updates_or_is_adaptive() -> None:
    assert {name for name in SOLVERS if linear_updates(name, 2, 3.0) is None} == {"dopri5"}
    with pytest.raises(RequestError, match="solver 'rk4' is none of euler, heun"):
        linear_updates("rk4", 2, 3.0)


@pytest.mark.parametrize(("solver", "per_step"), [("euler", 1), ("heun", 2), ("dpm_solver_pp_2m", 1)])
def test_evaluations_are_counted(solver: str, per_step: int) -> None:
    assert len(linear_updates(solver, 5, 3.0)) == 5 * per_step
