"""codes -> latents, plainly: the reference that every faster decoder is tested against.

    for each round: features of all positions -> integrate the velocity of this round's positions -> they are known

Of an image that is known in part, only the masked positions go through the rounds. All images of a call have the
same grid, rounds, steps and number of masked positions. Knows nothing of pixels, seeds or queues.
"""

from __future__ import annotations

import torch

from v2flow_engine.config import Grid
from v2flow_engine.decoding.schedule import guidance_scales, round_positions
from v2flow_engine.errors import RequestError
from v2flow_engine.flow.path import net_time, to_velocity
from v2flow_engine.flow.solvers import Field, evaluate_once, get_solver
from v2flow_engine.models.visual_tokenizer import VisualTokenizer


@torch.inference_mode()
def sample_latents(
    tokenizer: VisualTokenizer,
    codes: torch.Tensor,
    orders: torch.Tensor,
    noise: torch.Tensor,
    *,
    grid: Grid | None = None,
    rounds: int,
    flow_steps: int,
    guidance_scale: float = 1.0,
    guidance_schedule: str | None = None,
    solver: str | None = None,
    known_latents: torch.Tensor | None = None,
    redraw: torch.Tensor | None = None,
) -> torch.Tensor:
    """Decode a batch.

    Args:
        codes: (B, S) int64.
        orders: (B, N) int64 permutations; `orders[b, :m]` are the positions still masked when m are.
        noise: (B, N, C p^2) float32, where each position's flow starts.
        grid: (rows, columns) of the images' visual tokens; None is the model's full grid.
        flow_steps: of the solver in each round; dopri5 ignores it.
        guidance_scale: 1 leaves the unconditional half out.
        guidance_schedule, solver: None for those of the model's `FlowConfig`.
        known_latents: (B, C, h, w), scaled, of which the positions outside `redraw` are kept, to the bit.
        redraw: (B, N) bool, the positions to draw, as many in each image; the rounds are spread over them, in
            the order that `orders` has them in. None draws all, and needs no known latents.

    Returns:
        latents (B, C, h, w), float32.

    Raises:
        RequestError: more rounds than positions to draw, or not as many of these in each image.
    """
    flow = tokenizer.config.flow
    integrate = get_solver(solver or flow.solver)
    if flow.method == "regression":  # everything from the conditions, in one round
        integrate, rounds = evaluate_once, 1
    conditions = tokenizer.conditions(codes)
    latent_tokens, known = _start(tokenizer, noise, known_latents, redraw)
    num_masked = noise.shape[1] - known.shape[1]
    if not num_masked:
        return tokenizer.unpatchify(latent_tokens, grid)
    scales = guidance_scales(
        noise.shape[1], rounds, guidance_scale, guidance_schedule or flow.guidance_schedule, num_masked
    )
    orders = orders.cpu()
    if redraw is not None:
        orders = orders[redraw.cpu().gather(1, orders)].unflatten(0, (-1, num_masked))  # (B, masked)
    schedule = [round_positions(order, rounds) for order in orders]
    for i in range(rounds):
        chosen = torch.stack([positions[i] for positions in schedule]).to(noise.device)  # (B, M)
        rows = chosen[..., None]
        field = _field(tokenizer, grid, latent_tokens, known, conditions, chosen, scales[i])
        start = noise.gather(1, rows.expand(-1, -1, noise.shape[-1])).flatten(0, 1)
        predicted = integrate(field, start, flow_steps, flow.shift)
        latent_tokens = latent_tokens.scatter(
            1, rows.expand(-1, -1, noise.shape[-1]), predicted.unflatten(0, chosen.shape)
        )
        known = torch.cat([known, chosen], dim=1).sort(dim=1).values
    return tokenizer.unpatchify(latent_tokens, grid)


def _start(
    tokenizer: VisualTokenizer,
    noise: torch.Tensor,
    known_latents: torch.Tensor | None,
    redraw: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is known before the first round: latent_tokens (B, N, C p^2), zero elsewhere, and known (B, N - masked)."""
    if (redraw is None) != (known_latents is None):
        raise RequestError("known latents and the positions to redraw must be given together")
    if redraw is None:
        return torch.zeros_like(noise), torch.zeros(len(noise), 0, dtype=torch.int64, device=noise.device)
    counts = redraw.sum(dim=1)
    if tuple(redraw.shape) != tuple(noise.shape[:2]) or (counts != counts[0]).any():
        raise RequestError(
            f"redraw must be {tuple(noise.shape[:2])} with as many positions in each image, got "
            f"{tuple(redraw.shape)} with {counts.tolist()}"
        )
    latent_tokens = tokenizer.patchify(known_latents.to(noise.dtype)).masked_fill(redraw[..., None], 0.0)
    return latent_tokens, (~redraw).nonzero()[:, 1].unflatten(0, (len(noise), -1))


def _field(
    tokenizer: VisualTokenizer,
    grid: Grid | None,
    latent_tokens: torch.Tensor,
    known: torch.Tensor,
    conditions: torch.Tensor,
    chosen: torch.Tensor,
    scale: float,
) -> Field:
    """The guided velocity field of one round's positions, rows in image order, then raster order."""
    flow, dtype = tokenizer.config.flow, conditions.dtype

    def features_of(conditions: torch.Tensor) -> torch.Tensor:
        features = tokenizer.masked_transformer(latent_tokens.to(dtype), known, conditions, grid)
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
        unconditional = features_of(tokenizer.null_conditions(*conditions.shape[:2]))

    def guided(x_t: torch.Tensor, t: float) -> torch.Tensor:
        without = velocity(x_t, t, unconditional)
        return without + scale * (velocity(x_t, t, conditional) - without)

    return guided
