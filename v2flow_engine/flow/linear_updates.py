"""A fixed-step solver as data: the times of its evaluations, and a linear update of its state after each.

    velocity = field(x_t, time);  x_t, memory = a x_t + b memory + c velocity, d x_t + e memory + f velocity

All solvers of `flow.solvers` but dopri5 have this form, so rows that are at different times of different solvers can
share one evaluation of the velocity net. `memory` starts at zero; x_t is the point of the next evaluation, and after
the last one the result. Knows nothing of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from v2flow_engine.errors import RequestError
from v2flow_engine.flow.solvers import SOLVERS, shifted_noise_levels

Coefficients = tuple[float, float, float, float, float, float]  # a, b, c of x_t; d, e, f of the memory


@dataclass(frozen=True)
class LinearUpdates:
    """times: t in [0, 1] of each evaluation; coefficients: of the update after it, as many."""

    times: tuple[float, ...]
    coefficients: tuple[Coefficients, ...]

    def __len__(self) -> int:
        """Evaluations of the field."""
        return len(self.times)


def euler(steps: int, shift: float = 1.0) -> LinearUpdates:
    """x_t + velocity / steps; no memory."""
    update = (1.0, 0.0, 1.0 / steps, 0.0, 0.0, 0.0)
    return LinearUpdates(tuple(i / steps for i in range(steps)), (update,) * steps)


def heun(steps: int, shift: float = 1.0) -> LinearUpdates:
    """Explicit trapezoid: the memory holds the step's start with half of its first slope."""
    predict = (1.0, 0.0, 1.0 / steps, 1.0, 0.0, 0.5 / steps)
    correct = (0.0, 1.0, 0.5 / steps, 0.0, 0.0, 0.0)
    times = [t for i in range(steps) for t in (i / steps, (i + 1) / steps)]
    return LinearUpdates(tuple(times), (predict, correct) * steps)


def dpm_solver_pp_2m(steps: int, shift: float = 3.0) -> LinearUpdates:
    """DPM-Solver++ (2M): the memory is the prediction of the data one step before."""
    levels = shifted_noise_levels(steps, shift)
    log_snr = [math.log((1.0 - s) / s) if s > 0 else math.inf for s in levels]
    coefficients = []
    for i in range(steps):
        level, target = levels[i], levels[i + 1]
        h = log_snr[i + 1] - log_snr[i]
        gain = -(1.0 - target) * math.expm1(-h)
        extrapolate = 0.0
        if 0 < i < steps - 1:
            extrapolate = h / (2.0 * (log_snr[i] - log_snr[i - 1]))
        slope = gain * (1.0 + extrapolate)
        coefficients.append(
            (target / level + slope, -gain * extrapolate, slope * level, 1.0, 0.0, level)
        )  # the data's prediction is x_t + level * velocity
    return LinearUpdates(tuple(1.0 - s for s in levels[:-1]), tuple(coefficients))


LINEAR_SOLVERS: dict[str, Callable[[int, float], LinearUpdates]] = {
    "euler": euler,
    "heun": heun,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
}


@lru_cache(maxsize=256)
def linear_updates(solver: str, steps: int, shift: float) -> LinearUpdates | None:
    """The updates of a solver by name; None for dopri5, which chooses its steps by what it meets.

    Raises `RequestError` for an unknown name.
    """
    if solver not in SOLVERS:
        raise RequestError(f"solver {solver!r} is none of {', '.join(SOLVERS)}")
    return LINEAR_SOLVERS[solver](steps, shift) if solver in LINEAR_SOLVERS else None
