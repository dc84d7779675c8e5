"""What the token generator is asked for: one image's prompt_token_ids and sampling parameters, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from v2flow_engine.config import MAX_SEED
from v2flow_engine.errors import RequestError

MAX_GUIDANCE_SCALE = 100.0
MAX_TEMPERATURE = 2.0  # vLLM's own limit


@dataclass(frozen=True)
class TokenRequest:
    """One image to write.

    prompt_token_ids: `BOS + text + image_start + size token`, in the LLM's vocabulary.
    num_visual_tokens: how many visual tokens follow, the size of the image's grid.
    seed: the tokens depend on it, the prompt and the parameters alone; in [0, 2^63).
    guidance_scale: 1 follows the prompt as the plain LLM does, more follows it closer, 0 ignores it.
    temperature: 0 takes the likeliest token each time; at most 2.
    top_k: sample from the k likeliest tokens; 0 from all.
    """

    prompt_token_ids: Sequence[int]
    num_visual_tokens: int
    seed: int
    guidance_scale: float = 3.0
    temperature: float = 1.0
    top_k: int = 0

    def check(self, *, vocab_size: int, max_model_len: int, guided: bool = True) -> None:
        """Raise `RequestError` naming the first field that this model cannot serve."""
        _check_whole("num_visual_tokens", self.num_visual_tokens, 1, max_model_len)
        _check_whole("seed", self.seed, 0, MAX_SEED)
        _check_whole("top_k", self.top_k, 0, vocab_size)
        _check_number("guidance_scale", self.guidance_scale, MAX_GUIDANCE_SCALE)
        _check_number("temperature", self.temperature, MAX_TEMPERATURE)
        if not guided and self.guidance_scale != 1:
            raise RequestError(
                f"this generator is unguided: guidance_scale must be 1, got {self.guidance_scale}"
            )
        if not len(self.prompt_token_ids):
            raise RequestError("prompt_token_ids is empty")
        for token_id in self.prompt_token_ids:
            _check_whole("every prompt token id", token_id, 0, vocab_size - 1)
        length = len(self.prompt_token_ids) + self.num_visual_tokens
        if length > max_model_len:
            raise RequestError(
                f"{len(self.prompt_token_ids)} prompt tokens and {self.num_visual_tokens} visual tokens "
                f"are {length}; this model takes at most {max_model_len}"
            )


def _check_whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number in [{low}, {high}], got {value!r}")


def _check_number(name: str, value: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= high:
        raise RequestError(f"{name} must be a number in [0, {high:g}], got {value!r}")
