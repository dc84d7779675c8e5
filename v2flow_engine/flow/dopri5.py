"""The adaptive solver that the reference uses for CondOT: Dormand-Prince 5(4), as torchdiffeq implements it.

Slow beside the fixed-step solvers, and here so that a converted CondOT model gives what it gave where it was trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from v2flow_engine.flow.solvers import Field

TOLERANCE = 1e-5  # absolute and relative, the reference's


def dopri5(field: Field, noise: torch.Tensor, steps: int, shift: float = 1.0) -> torch.Tensor:
    """Fifth order with error control at atol = rtol = 1e-5; as many evaluations as that takes.

    `steps` and `shift` are ignored by design: the solver chooses its own times. It chooses them for the joint state
    (M, C) of all rows, so an image's result depends on its batch mates, by about the tolerance. The last step may
    reach beyond t = 1, where the field must be defined too: the result is interpolated inside that step.
    """
    from torchdiffeq import odeint  # lazily: only this solver needs it, and it brings scipy

    ends = torch.tensor([0.0, 1.0], dtype=noise.dtype, device=noise.device)
    states = odeint(
        lambda t, x_t: field(x_t, float(t)), noise, ends, method="dopri5", atol=TOLERANCE, rtol=TOLERANCE
    )
    return states[-1]
