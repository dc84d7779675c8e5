"""Integrates velocity fields from t = 0 (noise) to t = 1 (data) with a fixed number of evaluations; solvers by name.

A field is any function (x_t, t) -> velocity with t a float. Knows nothing of nets or guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from v2flow_engine.errors import RequestError
from v2flow_engine.flow.dopri5 import dopri5

Field = Callable[[torch.Tensor, float], torch.Tensor]


def evaluate_once(field: Field, noise: torch.Tensor, steps: int, shift: float = 1.0) -> torch.Tensor:
    """No integration: the field's value at nothing is the result, whatever the noise (the method "regression")."""
    return field(torch.zeros_like(noise), 0.0)


def euler(field: Field, noise: torch.Tensor, steps: int, shift: float = 1.0) -> torch.Tensor:
    """First order, `steps` evaluations, uniform in t (shift is ignored by design: it serves DPM-Solver++)."""
    x_t = noise
    for i in range(steps):
        x_t = x_t + field(x_t, i / steps) / steps
    return x_t


def heun(field: Field, noise: torch.Tensor, steps: int, shift: float = 1.0) -> torch.Tensor:
    """Second order (explicit trapezoid), 2 * steps evaluations, uniform in t."""
    x_t = noise
    for i in range(steps):
        start, end = i / steps, (i + 1) / steps
        first = field(x_t, start)
        second = field(x_t + first / steps, end)
        x_t = x_t + (first + second) / (2 * steps)
    return x_t


def shifted_noise_levels(steps: int, shift: float) -> list[float]:
    """steps + 1 noise levels from almost 1 down to 0, spaced by the timestep shift of SD3 (arXiv 2403.03206)."""
    uniform = [(1.0 - 1e-3) * (1.0 - i / steps) for i in range(steps + 1)]
    return [shift * s / (1.0 + (shift - 1.0) * s) for s in uniform]


def dpm_solver_pp_2m(field: Field, noise: torch.Tensor, steps: int, shift: float = 3.0) -> torch.Tensor:
    """DPM-Solver++ (2M), `steps` evaluations: multistep, second order, first order at both ends (arXiv 2211.01095)."""
    levels = shifted_noise_levels(steps, shift)
    log_snr = [math.log((1.0 - s) / s) if s > 0 else math.inf for s in levels]
    x_t, previous = noise, None
    for i in range(steps):
        level, target = levels[i], levels[i + 1]
        data = x_t + level * field(x_t, 1.0 - level)
        h = log_snr[i + 1] - log_snr[i]
        slope = data
        if previous is not None and i < steps - 1:
            ratio = (log_snr[i] - log_snr[i - 1]) / h
            slope = data + (data - previous) / (2.0 * ratio)
        x_t = (target / level) * x_t - (1.0 - target) * math.expm1(-h) * slope
        previous = data
    return x_t


SOLVERS: dict[str, Callable[..., torch.Tensor]] = {
    "euler": euler,
    "heun": heun,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "dopri5": dopri5,
}


def get_solver(name: str) -> Callable[..., torch.Tensor]:
    """A solver by name; raises `RequestError` for an unknown one."""
    if name not in SOLVERS:
        raise RequestError(f"solver {name!r} is none of {', '.join(SOLVERS)}")
    return SOLVERS[name]
