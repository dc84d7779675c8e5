"""Images under way -> their latents as they might end: known positions as they are, the others estimated.

The estimate is one step of the flow from pure noise, which is the mean of what the position could become: one pass
of the transformer and one evaluation of the velocity net, for all images asked for. It leaves them as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from v2flow_engine.decoding.engine.image_state import ImageState
from v2flow_engine.decoding.engine.integration import FlowPart, integrate
from v2flow_engine.decoding.engine.model import EngineModel
from v2flow_engine.flow.linear_updates import linear_updates


def preview_latents(model: EngineModel, states: Sequence[ImageState]) -> list[torch.Tensor]:
    """latents (C, h, w), float32, of each of at least one image, none of them done."""
    features = model.transformer(
        [each.packed(num_chosen=len(each.positions) - each.num_known) for each in states]
    )
    one_step = linear_updates("euler", 1, 1.0)
    parts = [
        FlowPart(state.noise[state.num_known :], own, one_step)
        for state, own in zip(states, features, strict=True)
    ]
    estimates = integrate(model.velocity, parts, model.null_condition)
    return [
        state.image_latents(torch.cat([state.latents[: state.num_known], estimate]))
        for state, estimate in zip(states, estimates, strict=True)
    ]
