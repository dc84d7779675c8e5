"""The LLM's vocabulary with visual tokens in it: text ids | control ids | visual ids.

visual_token_ids <-> codes, with length and range checked. Knows nothing of tokenizers for text or of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from v2flow_engine.config import find_grid, from_dict
from v2flow_engine.errors import ModelFolderError, RequestError


@dataclass(frozen=True)
class VisualVocabulary:
    """The `v2flow` block of llm/config.json.

    text_vocab_size: ids below it belong to the base LLM's own text vocabulary.
    null_id: stands in for every text id in the unconditional stream.
    visual_offset: id of code 0; codes take `codebook_size` ids from there.
    grids: size "WxH" in pixels -> [rows, columns] of visual tokens.
    size_token_ids: size -> the control id that announces it.
    bos_id: the base LLM's beginning-of-sequence id, kept in both streams.
    """

    text_vocab_size: int
    bos_id: int
    image_start_id: int
    image_end_id: int
    null_id: int
    visual_offset: int
    codebook_size: int
    grids: dict[str, Any]
    size_token_ids: dict[str, Any]

    @classmethod
    def from_llm_config(cls, llm_config: dict[str, Any], source: str = "llm/config.json") -> VisualVocabulary:
        """Read and cross-check the block; raises `ModelFolderError`."""
        if "v2flow" not in llm_config:
            raise ModelFolderError(f"{source}: no 'v2flow' block; this is not an LLM with visual tokens")
        vocabulary = from_dict(cls, llm_config["v2flow"], f"{source}: v2flow")
        vocab_size = llm_config.get("vocab_size")
        if vocab_size is None or vocabulary.visual_offset + vocabulary.codebook_size > vocab_size:
            raise ModelFolderError(
                f"{source}: vocab_size {vocab_size} does not cover visual ids up to "
                f"{vocabulary.visual_offset + vocabulary.codebook_size}"
            )
        return vocabulary

    def __post_init__(self) -> None:
        if set(self.grids) != set(self.size_token_ids):
            raise ModelFolderError(
                f"grids name sizes {sorted(self.grids)}, size_token_ids {sorted(self.size_token_ids)}"
            )
        control = [self.image_start_id, self.image_end_id, self.null_id, *self.size_token_ids.values()]
        if len(set(control)) != len(control) or not all(
            self.text_vocab_size <= i < self.visual_offset for i in control
        ):
            raise ModelFolderError(
                f"control ids {control} must be distinct and lie in [{self.text_vocab_size}, {self.visual_offset})"
            )

    def num_visual_tokens(self, size: str) -> int:
        """S, the number of visual tokens of an image of this size."""
        rows, columns = find_grid(self.grids, size)
        return rows * columns

    def codes(self, visual_token_ids: Sequence[int], size: str) -> torch.Tensor:
        """visual_token_ids -> codes (S,) int64 in [0, K). Raises `RequestError` on a wrong length or a foreign id."""
        expected = self.num_visual_tokens(size)
        if len(visual_token_ids) != expected:
            raise RequestError(
                f"an image of {size} has {expected} visual tokens, got {len(visual_token_ids)}"
            )
        codes = torch.as_tensor(list(visual_token_ids), dtype=torch.int64) - self.visual_offset
        foreign = (codes < 0) | (codes >= self.codebook_size)
        if foreign.any():
            first = int(codes[foreign][0]) + self.visual_offset
            raise RequestError(
                f"token id {first} is no visual token: these are [{self.visual_offset}, "
                f"{self.visual_offset + self.codebook_size})"
            )
        return codes

    def visual_token_ids(self, codes: torch.Tensor) -> list[int]:
        """codes (S,) -> visual_token_ids, the inverse of `codes`."""
        if ((codes < 0) | (codes >= self.codebook_size)).any():
            raise RequestError(
                f"codes must lie in [0, {self.codebook_size}), got {int(codes.min())}..{int(codes.max())}"
            )
        return (codes.to(torch.int64) + self.visual_offset).tolist()

    def is_text(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Mask of the ids that the unconditional stream replaces by `null_id`: text, BOS excepted."""
        return (token_ids < self.text_vocab_size) & (token_ids != self.bos_id)

    def unconditional_ids(self, token_ids: torch.Tensor) -> torch.Tensor:
        """The unconditional stream's view of `token_ids` (any shape)."""
        return torch.where(self.is_text(token_ids), self.null_id, token_ids)
