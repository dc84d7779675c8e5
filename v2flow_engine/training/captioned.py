"""Pictures as the LLM's training sees them: prompts and codes. Knows nothing of pixels or of the LLM."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from v2flow_engine.vocabulary import VisualVocabulary


@dataclass(frozen=True)
class Captioned:
    """Pictures of one size "WxH": prompt_ids (n, variants, L) and lengths (n, variants) int32; codes (n, S) int16 or
    wider.
    """

    size: str
    prompt_ids: torch.Tensor
    lengths: torch.Tensor
    codes: torch.Tensor

    def __len__(self) -> int:
        return len(self.codes)

    def sequences(
        self, vocabulary: VisualVocabulary, rows: torch.Tensor, variants: torch.Tensor
    ) -> list[torch.Tensor]:
        """Ids of prompt, image and image_end of some pictures, each in one of its wordings."""
        prompts, lengths = self.prompt_ids[rows, variants].long(), self.lengths[rows, variants].tolist()
        codes = self.codes[rows].long() + vocabulary.visual_offset
        end = codes.new_tensor([vocabulary.image_end_id])
        return [
            torch.cat([prompt[:length], image, end])
            for prompt, length, image in zip(prompts, lengths, codes, strict=True)
        ]

    def to(self, device: torch.device) -> Captioned:
        """Move all of it."""
        return Captioned(
            self.size, self.prompt_ids.to(device), self.lengths.to(device), self.codes.to(device)
        )
