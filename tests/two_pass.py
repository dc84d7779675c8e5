"""The plainest loop that the guided engine must equal: two whole passes per token, no cache, greedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from v2flow_engine.vocabulary import VisualVocabulary


class TwoPass:
    """Greedy guided decoding of a stock LLaMA folder in float32."""

    def __init__(self, llm_dir: Path, vocabulary: VisualVocabulary) -> None:
        self.vocabulary = vocabulary
        self.model = AutoModelForCausalLM.from_pretrained(llm_dir, dtype=torch.float32).eval()

    @torch.inference_mode()
    def visual_logits(self, token_ids: torch.Tensor) -> torch.Tensor:
        """token_ids (T,) -> the last position's logits of the visual rows, (K,)."""
        first = self.vocabulary.visual_offset
        return self.model(token_ids[None]).logits[0, -1, first : first + self.vocabulary.codebook_size]

    def greedy(
        self,
        prompt_token_ids: Sequence[int],
        num_visual_tokens: int,
        guidance_scale: float | None,
        forced: Sequence[int | None] | None = None,
        guidance_schedule: str = "constant",
    ) -> list[int]:
        """visual_token_ids; `guidance_scale` None is the plain conditional model, one pass per token."""
        token_ids = torch.tensor(list(prompt_token_ids))
        for position, known in enumerate(forced or [None] * num_visual_tokens):
            if known is not None:
                token_ids = torch.cat((token_ids, torch.tensor([known])))
                continue
            logits = self.visual_logits(token_ids)
            if guidance_scale is not None:
                uncond = self.visual_logits(self.vocabulary.unconditional_ids(token_ids))
                grown = 1 if guidance_schedule == "constant" else (position + 1) / num_visual_tokens
                logits = uncond + (1 + (guidance_scale - 1) * grown) * (logits - uncond)
            chosen = logits.argmax(keepdim=True) + self.vocabulary.visual_offset
            token_ids = torch.cat((token_ids, chosen))
        return token_ids[len(prompt_token_ids) :].tolist()
