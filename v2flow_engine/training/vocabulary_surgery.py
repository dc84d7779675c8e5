"""An LLM's vocabulary gets control and visual tokens: ids laid out, embedding rows filled, configs written.

Visual rows go from the text rows' mean along the codebook's directions, as far as text rows do (root mean square): the
visual tokenizer mixes text rows without their mean, and the codebook knows directions only. A pretrained LLM's mean may
be most of a row; without it the new rows would be like nothing that it has seen. Knows nothing of training.
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

ROWS_AT_ONCE = 8192  # in float32
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
    start = vocabulary.visual_offset
    embedding.weight[: vocabulary.text_vocab_size] = text.to(embedding.weight)
    rows = visual_rows(*row_statistics(text), codebook)
    embedding.weight[start : start + vocabulary.codebook_size] = rows.to(embedding.weight)


def visual_rows(mean: torch.Tensor, deviation: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Unit vectors (K, D) -> rows (K, D) among text rows of that mean and standard deviation of each channel, (D,)."""
    return mean + directions.float() * deviation.norm()


def row_statistics(text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel of rows (V, D), in float32."""
    total, squares = torch.zeros(text.shape[1]), torch.zeros(text.shape[1])
    for rows in text.split(ROWS_AT_ONCE):
        rows = rows.float()
        total += rows.sum(dim=0)
        squares += rows.square().sum(dim=0)
    mean = total / len(text)
    return mean, (squares / len(text) - mean.square()).clamp_min(0).sqrt()


def write_llm_config(config: dict[str, Any], vocabulary: VisualVocabulary, folder: Path) -> None:
    """llm/config.json: the base model's keys, the guided architecture, the `v2flow` block."""
    architecture = ARCHITECTURES[config["model_type"]]
    values = config | {"architectures": [architecture], "v2flow": to_dict(vocabulary)}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
