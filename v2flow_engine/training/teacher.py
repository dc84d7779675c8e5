"""An LLM that draws already -> what it expects of each visual token of a picture, for another LLM to learn from.

Distillation (arXiv 1503.02531): a picture has one code at each place, and a teacher says how likely all of them were.
The teacher is asked in its own words, so that it need not know those of the student's captions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from v2flow_engine.training.captioned import Captioned
from v2flow_engine.training.llm_losses import image_logits
from v2flow_engine.vocabulary import VisualVocabulary


class Teacher:
    """A frozen LLM with visual tokens, and the pictures of the training in its own captions.

    Args:
        llm_dir, vocabulary: of the teacher's model folder.
        sets: its prompts for the same pictures, in the same order, with the same codes.
        student: the vocabulary that expectations are told in, with as many codes.
    """

    def __init__(
        self,
        llm_dir: Path,
        vocabulary: VisualVocabulary,
        sets: list[Captioned],
        student: VisualVocabulary,
        device: torch.device,
    ) -> None:
        self.vocabulary, self.student, self.sets = vocabulary, student, [each.to(device) for each in sets]
        self.net: nn.Module = AutoModelForCausalLM.from_pretrained(llm_dir, local_files_only=True)
        self.net.requires_grad_(False).eval().to(device)

    @torch.no_grad()
    def expects(
        self, chosen: int, rows: torch.Tensor, variants: torch.Tensor, dropped: torch.Tensor
    ) -> torch.Tensor:
        """Probabilities (B, S + 1, V) of image_end and codes, at their places among the student's rows from
        `text_vocab_size` on; 0 for its other rows.

        chosen: which set. rows, variants: (B,) which pictures, in which of the teacher's wordings. dropped: (B, 1)
        bool, pictures of which nothing is said.
        """
        mine, its = self.vocabulary, self.student
        data = self.sets[chosen]
        logits, _ = image_logits(self.net, mine, data, rows, variants, dropped, all_rows=False)
        first = mine.text_vocab_size
        known = torch.cat(
            [
                logits[..., mine.image_end_id - first, None],
                logits[..., mine.visual_offset - first :][..., : mine.codebook_size],
            ],
            dim=-1,
        )
        known = known.float().softmax(dim=-1)
        first = its.text_vocab_size
        told = known.new_zeros(*known.shape[:2], its.visual_offset - first + its.codebook_size)
        told[..., its.image_end_id - first] = known[..., 0]
        told[..., its.visual_offset - first :] = known[..., 1:]
        return told
