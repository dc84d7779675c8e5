"""Embedding rows for control and visual tokens, behind a text vocabulary's own.

Control rows are drawn as the text rows are distributed, from a fixed seed. Knows nothing of files.
"""

from __future__ import annotations

import torch

from v2flow_engine.training.vocabulary_surgery import row_statistics, visual_rows
from v2flow_engine.vocabulary import VisualVocabulary

_SEED = 0


def extended_rows(text: torch.Tensor, codebook: torch.Tensor, vocabulary: VisualVocabulary) -> torch.Tensor:
    """text (V, D), codebook (K, D) -> (V + control tokens + K, D) in the text's dtype."""
    mean, deviation = row_statistics(text)
    num_control = vocabulary.visual_offset - vocabulary.text_vocab_size
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(num_control, text.shape[1], generator=generator)
    control = mean + deviation * noise
    visual = visual_rows(mean, deviation, codebook)
    return torch.cat([text, control.to(text.dtype), visual.to(text.dtype)])
