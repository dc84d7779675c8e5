"""codes -> latents, plainly: the reference that every faster decoder is tested against.

    for each round: features of all positions -> integrate the velocity of this round's positions -> they are known

All images of a call have the same grid, rounds and steps. Knows nothing of pixels, seeds or queues.
"""

from __future__ import annotations

import torch

from v2flow_engine.decoding.schedule import guidance_scales, round_positions
from v2flow_engine.flow.path import net_time, to_velocity
from v2flow_engine.flow.solvers import Field, get_solver
from v2flow_engine.models.visual_tokenizer import VisualTokenizer


@torch.inference_mode()
def sample_latents(
    tokenizer: VisualTokenizer,
    codes: torch.Tensor,
    orders: torch.Tensor,
    noise: torch.Tensor,
    *,
    rounds: int,
    flow_steps: int,
    guidance_scale: float = 1.0,
    guidance_schedule: str = "constant",
    solver: str = "dpm_solver_pp_2m",
) -> torch.Tensor:
    """Decode a batch.

    Args:
        codes: (B, S) int64.
        orders: (B, N) int64 permutations; `orders[b, :m]` are the positions still masked when m are.
        noise: (B, N, C p^2) float32, where each position's flow starts.
        guidance_scale: 1 leaves the unconditional half out.

    Returns:
        latents (B, C, h, w), float32.
    """
    integrate = get_solver(solver)
    conditions = tokenizer.conditions(codes)
    num_positions = tokenizer.config.num_positions
    scales = guidance_scales(num_positions, rounds, guidance_scale, guidance_schedule)
    schedule = [round_positions(order, rounds) for order in orders.cpu()]
    latent_tokens = torch.zeros_like(noise)
    known = torch.zeros(len(codes), 0, dtype=torch.int64, device=noise.device)
    for i in range(rounds):
        chosen = torch.stack([positions[i] for positions in schedule]).to(noise.device)  # (B, M)
        rows = chosen[..., None]
        field = _field(tokenizer, latent_tokens, known, conditions, chosen, scales[i])
        start = noise.gather(1, rows.expand(-1, -1, noise.shape[-1])).flatten(0, 1)
        predicted = integrate(field, start, flow_steps, tokenizer.config.flow.shift)
        latent_tokens = latent_tokens.scatter(
            1, rows.expand(-1, -1, noise.shape[-1]), predicted.unflatten(0, chosen.shape)
        )
        known = torch.cat([known, chosen], dim=1).sort(dim=1).values
    return tokenizer.unpatchify(latent_tokens)


def _field(
    tokenizer: VisualTokenizer,
    latent_tokens: torch.Tensor,
    known: torch.Tensor,
    conditions: torch.Tensor,
    chosen: torch.Tensor,
    scale: float,
) -> Field:
    """The guided velocity field of one round's positions, rows in image order, then raster order."""
    flow, dtype = tokenizer.config.flow, conditions.dtype

    def features_of(conditions: torch.Tensor) -> torch.Tensor:
        features = tokenizer.masked_transformer(latent_tokens.to(dtype), known, conditions)
        return features.gather(1, chosen[..., None].expand(-1, -1, features.shape[-1])).flatten(0, 1)

    def velocity(x_t: torch.Tensor, t: float, features: torch.Tensor) -> torch.Tensor:
        time = net_time(flow, torch.full((len(x_t),), t, dtype=torch.float32, device=x_t.device))
        return to_velocity(flow, tokenizer.velocity(x_t.to(dtype), time, features).float())

    conditional = features_of(conditions)
    if scale == 1.0:
        return lambda x_t, t: velocity(x_t, t, conditional)
    if flow.unconditional == "null_condition":
        unconditional = tokenizer.null_condition.expand(len(conditional), -1)
    else:
        unconditional = features_of(tokenizer.null_conditions(len(conditions)))

    def guided(x_t: torch.Tensor, t: float) -> torch.Tensor:
        without = velocity(x_t, t, unconditional)
        return without + scale * (velocity(x_t, t, conditional) - without)

    return guided
