"""One masked round for all images under way: one pass of the transformer, one integration.

Knows nothing of queues or pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from v2flow_engine.decoding.engine.image_state import ImageState
from v2flow_engine.decoding.engine.integration import FlowPart, integrate
from v2flow_engine.decoding.engine.model import EngineModel


def run_round(model: EngineModel, states: Sequence[ImageState]) -> None:
    """Draw the next positions of every image."""
    data = integrate(model.velocity, flow_parts(model, states), model.null_condition)
    positions = torch.cat([state.encoder_positions_of_round() for state in states])
    rows = model.transformer.latent_rows(torch.cat(data), positions)
    for state, latents, own in zip(states, data, rows.split([len(d) for d in data]), strict=True):
        state.finish_round(latents, own)


def flow_parts(model: EngineModel, states: Sequence[ImageState]) -> list[FlowPart]:
    """The features of this round's positions, under the conditions and, where guidance asks for it, without."""
    images, wanted = [], []
    for i, state in enumerate(states):
        conditional, unconditional = halves(state)
        if conditional:
            images.append(state.packed())
            wanted.append((i, False))
        if unconditional and state.num_known:
            images.append(state.packed(unconditional=True))
            wanted.append((i, True))
        elif unconditional:
            model.fill_null_features(state.tables)
    features = dict(zip(wanted, model.transformer(images), strict=True)) if images else {}
    return [
        _flow_part(model, state, features.get((i, False)), features.get((i, True)))
        for i, state in enumerate(states)
    ]


def halves(state: ImageState) -> tuple[bool, bool]:
    """Whether this round needs features under the conditions, and under the null conditions."""
    return state.scale != 0.0, state.scale != 1.0 and state.schedule.own_unconditional


def _flow_part(
    model: EngineModel, state: ImageState, features: torch.Tensor | None, without: torch.Tensor | None
) -> FlowPart:
    if without is None and halves(state)[1]:
        without = state.null_features()
    if features is None:  # a scale of 0 leaves the unconditional half alone
        null = model.null_condition.expand(state.num_chosen, -1)
        return state.flow_part(null if without is None else without, None, None)
    return state.flow_part(features, None if state.scale == 1.0 else state.scale, without)
