"""What the token generator is asked for: one image's prompt_token_ids and sampling parameters, checked.

Forced tokens are split off here: those at either end of an image need no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from v2flow_engine.config import MAX_GUIDANCE, MAX_SEED, MAX_TEMPERATURE
from v2flow_engine.errors import RequestError
from v2flow_engine.generation.limits import check_choice, check_number, check_whole
from v2flow_engine.guidance import SCHEDULES


@dataclass(frozen=True)
class TokenRequest:
    """One image to write.

    prompt_token_ids: `BOS + text + image_start + size token`, in the LLM's vocabulary.
    num_visual_tokens: how many visual tokens follow, the size of the image's grid.
    seed: the tokens depend on it, the prompt and the parameters alone; in [0, 2^63).
    guidance_scale: 1 follows the prompt as the plain LLM does, more follows it closer, 0 ignores it.
    guidance_schedule: "constant", or "linear": see `v2flow_engine.guidance`.
    temperature: 0 takes the likeliest token each time; at most 2.
    top_k: sample from the k likeliest tokens; 0 from all.
    forced_visual_token_ids: for each position the visual_token_id that is to come out there, or None where the
        LLM writes; it sees forced tokens as if it had written them, in both streams. Those before the first free
        position are read with the prompt, those after the last one are not read at all; one in between costs
        the decode step of a written token. None: the LLM writes all.
    """

    prompt_token_ids: Sequence[int]
    num_visual_tokens: int
    seed: int
    guidance_scale: float = 3.0
    temperature: float = 1.0
    top_k: int = 0
    forced_visual_token_ids: Sequence[int | None] | None = None
    guidance_schedule: str = "constant"

    def check(self, *, vocab_size: int, visual_ids: range, max_model_len: int, guided: bool = True) -> None:
        """Raise `RequestError` naming the first field that this model cannot serve."""
        check_whole("num_visual_tokens", self.num_visual_tokens, 1, max_model_len)
        check_whole("seed", self.seed, 0, MAX_SEED)
        check_whole("top_k", self.top_k, 0, vocab_size)
        check_number("guidance_scale", self.guidance_scale, 0.0, MAX_GUIDANCE)
        check_choice("guidance_schedule", self.guidance_schedule, SCHEDULES)
        check_number("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        if not guided and self.guidance_scale != 1:
            raise RequestError(
                f"this generator is unguided: guidance_scale must be 1, got {self.guidance_scale}"
            )
        if not len(self.prompt_token_ids):
            raise RequestError("prompt_token_ids is empty")
        for token_id in self.prompt_token_ids:
            check_whole("every prompt token id", token_id, 0, vocab_size - 1)
        length = len(self.prompt_token_ids) + self.num_visual_tokens
        if length > max_model_len:
            raise RequestError(
                f"{len(self.prompt_token_ids)} prompt tokens and {self.num_visual_tokens} visual tokens "
                f"are {length}; this model takes at most {max_model_len}"
            )
        self._check_forced(visual_ids)

    def _check_forced(self, visual_ids: range) -> None:
        forced = self.forced_visual_token_ids
        if forced is None:
            return
        if isinstance(forced, str) or not isinstance(forced, Sequence):
            raise RequestError(f"forced_visual_token_ids must be a list, got {type(forced).__name__}")
        if len(forced) != self.num_visual_tokens:
            raise RequestError(
                f"forced_visual_token_ids must have an entry for each of {self.num_visual_tokens} visual tokens, "
                f"got {len(forced)}"
            )
        for token_id in forced:
            if token_id is not None:
                check_whole("every forced visual token id", token_id, visual_ids[0], visual_ids[-1])

    def split(self) -> ForcedRuns:
        """The forced tokens by what each costs."""
        forced = list(self.forced_visual_token_ids or [None] * self.num_visual_tokens)
        free = [index for index, token_id in enumerate(forced) if token_id is None]
        if not free:
            return ForcedRuns(forced, [], [])
        first, last = free[0], free[-1] + 1
        return ForcedRuns(forced[:first], forced[first:last], forced[last:])


@dataclass(frozen=True)
class ForcedRuns:
    """An image's forced tokens. leading, trailing: ids around the free positions; between: ids and None.

    An image without a free position is all `leading`.
    """

    leading: list[int]
    between: list[int | None]
    trailing: list[int]
