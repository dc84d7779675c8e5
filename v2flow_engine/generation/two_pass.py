"""prompt_token_ids -> visual_token_ids with transformers alone: two forward passes per token.

What people do where no engine guides: training draws its sample sheets with it. Knows nothing of vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from v2flow_engine.errors import RequestError
from v2flow_engine.guidance import Guidance
from v2flow_engine.vocabulary import VisualVocabulary


@torch.inference_mode()
def generate_two_pass(
    model: PreTrainedModel,
    vocabulary: VisualVocabulary,
    prompts: Sequence[Sequence[int]],
    num_visual_tokens: int,
    guidance_scale: float,
    *,
    guidance_schedule: str = "constant",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    forced_visual_token_ids: Sequence[Sequence[int | None] | None] | None = None,
) -> torch.Tensor:
    """Write an image's tokens for each prompt.

    Logits are `uncond + s (cond - uncond)` over the visual ids only, s by the schedule (`v2flow_engine.guidance`).
    Temperature 0 is greedy. Prompts may differ in length: they are padded in front, masked and counted from
    their own start. `forced_visual_token_ids`: for each prompt None, or an entry for each token: the id that comes
    out there, or None.

    Returns:
        visual_token_ids (B, S) int64 on the CPU.
    """
    device = model.device
    longest = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), longest), vocabulary.null_id, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, longest - len(prompt) :] = 1
    guided = guidance_scale != 1.0
    guidance = Guidance(guidance_scale, guidance_schedule, num_visual_tokens)
    if guided:
        ids, mask = torch.cat([ids, vocabulary.unconditional_ids(ids)]), torch.cat([mask, mask])
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    visual = slice(vocabulary.visual_offset, vocabulary.visual_offset + vocabulary.codebook_size)
    forced = _forced_columns(forced_visual_token_ids, len(prompts), num_visual_tokens)
    cache, written = DynamicCache(), []
    for position, column in enumerate(forced):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1, visual].float()
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + guidance.at(position) * (conditional - unconditional)
        chosen = _choose(logits.cpu(), temperature, generator) + vocabulary.visual_offset
        chosen = torch.where(column < 0, chosen, column)
        written.append(chosen)
        ids = chosen.to(device)[:, None].repeat(2 if guided else 1, 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        positions = positions[:, -1:] + 1
    return torch.stack(written, dim=1)


def _forced_columns(
    forced: Sequence[Sequence[int | None] | None] | None, num_prompts: int, num_visual_tokens: int
) -> torch.Tensor:
    """(S, B) int64: ids, and -1 where the model writes."""
    free = [None] * num_visual_tokens
    rows = [row or free for row in forced or [None] * num_prompts]
    if len(rows) != num_prompts or any(len(row) != num_visual_tokens for row in rows):
        raise RequestError(
            f"expected {num_visual_tokens} forced tokens, or none, for each of {num_prompts} prompts, got "
            f"{[len(row) for row in rows]}"
        )
    return torch.tensor([[-1 if each is None else each for each in row] for row in rows]).T


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(dim=-1)
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)[:, 0]
