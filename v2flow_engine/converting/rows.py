"""Embedding rows for control and visual tokens, behind a text vocabulary's own.

Visual rows are the codebook's directions at the text rows' mean norm; control rows are drawn as the text rows are
distributed, from a fixed seed. Knows nothing of files.
"""

from __future__ import annotations

import torch

from v2flow_engine.vocabulary import VisualVocabulary

_CHUNK = 8192  # rows in float32 at once
_SEED = 0


def extended_rows(text: torch.Tensor, codebook: torch.Tensor, vocabulary: VisualVocabulary) -> torch.Tensor:
    """text (V, D), codebook (K, D) -> (V + control tokens + K, D) in the text's dtype."""
    norm, mean, deviation = _statistics(text)
    num_control = vocabulary.visual_offset - vocabulary.text_vocab_size
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(num_control, text.shape[1], generator=generator)
    control = mean + deviation * noise
    return torch.cat([text, control.to(text.dtype), (codebook.float() * norm).to(text.dtype)])


def _statistics(text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The rows' mean norm, and mean and standard deviation of each channel."""
    norms, total, squares = torch.zeros(()), torch.zeros(text.shape[1]), torch.zeros(text.shape[1])
    for rows in text.split(_CHUNK):
        rows = rows.float()
        norms += rows.norm(dim=-1).sum()
        total += rows.sum(dim=0)
        squares += rows.square().sum(dim=0)
    mean = total / len(text)
    return norms / len(text), mean, (squares / len(text) - mean.square()).clamp_min(0).sqrt()
