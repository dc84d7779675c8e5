"""An image under way -> its latents as they might end: known positions as they are, the others estimated.

The estimate is one step of the flow from pure noise, which is the mean of what the position could become: one pass
of the transformer and one evaluation of the velocity net, for this image alone. It leaves the image as it was.
"""

from __future__ import annotations

import torch

from v2flow_engine.decoding.engine.image_state import ImageState
from v2flow_engine.decoding.engine.integration import FlowPart, integrate
from v2flow_engine.decoding.engine.model import EngineModel
from v2flow_engine.flow.linear_updates import linear_updates


def preview_latents(model: EngineModel, state: ImageState) -> torch.Tensor:
    """latents (C, h, w), float32."""
    if state.done:
        return state.image_latents()
    known, rest = state.num_known, len(state.positions) - state.num_known
    (features,) = model.transformer([state.packed(num_chosen=rest)])
    one_step = linear_updates("euler", 1, 1.0)
    (estimate,) = integrate(
        model.velocity, [FlowPart(state.noise[known:], features, one_step)], model.null_condition
    )
    return state.image_latents(torch.cat([state.latents[:known], estimate]))
