"""An LLM's vocabulary gets control and visual tokens: ids laid out, embedding rows filled, configs written.

The visual rows start as the codebook's vectors, scaled to the text rows' mean norm: codes live in LLM space, and the
codebook knows directions only. Knows nothing of training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from v2flow_engine.config import to_dict
from v2flow_engine.llm_config import ARCHITECTURES
from v2flow_engine.vocabulary import VisualVocabulary

CONTROL_TOKENS = 3  # image_start, image_end, null; one more for each size


def lay_out_vocabulary(
    text_vocab_size: int, bos_id: int, codebook_size: int, grids: dict[str, tuple[int, int]]
) -> VisualVocabulary:
    """text ids | image_start, image_end, null, sizes | visual ids."""
    first = text_vocab_size
    sizes = {size: first + CONTROL_TOKENS + i for i, size in enumerate(grids)}
    return VisualVocabulary(
        text_vocab_size=text_vocab_size,
        bos_id=bos_id,
        image_start_id=first,
        image_end_id=first + 1,
        null_id=first + 2,
        visual_offset=first + CONTROL_TOKENS + len(grids),
        codebook_size=codebook_size,
        grids={size: list(grid) for size, grid in grids.items()},
        size_token_ids=sizes,
    )


@torch.no_grad()
def fill_embedding(
    embedding: nn.Embedding, text: torch.Tensor, codebook: torch.Tensor, vocabulary: VisualVocabulary
) -> None:
    """Write text rows (V, D) and codebook rows (K, D) into an extended embedding; control rows stay as they are."""
    norm = text.norm(dim=-1).mean()
    start = vocabulary.visual_offset
    embedding.weight[: vocabulary.text_vocab_size] = text.to(embedding.weight)
    embedding.weight[start : start + vocabulary.codebook_size] = (codebook * norm).to(embedding.weight)


def write_llm_config(config: dict[str, Any], vocabulary: VisualVocabulary, folder: Path) -> None:
    """llm/config.json: the base model's keys, the guided architecture, the `v2flow` block."""
    architecture = ARCHITECTURES[config["model_type"]]
    values = config | {"architectures": [architecture], "v2flow": to_dict(vocabulary)}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
