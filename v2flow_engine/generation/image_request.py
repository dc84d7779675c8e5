"""prompts + n + seed + parameters -> one request per picture, and a request -> what each engine is asked.

The one place where seeds are given out, so that the Python API, the offline path and any other way in draw
the same picture. Knows the engines' request types, not the engines.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from v2flow_engine.config import MAX_SEED
from v2flow_engine.errors import RequestError
from v2flow_engine.generation.limits import check_whole
from v2flow_engine.generation.parameters import GenerationParameters

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.decoding.request import DecodeRequest
    from v2flow_engine.generation.request import TokenRequest

MAX_IMAGES_PER_PROMPT = 1_000_000


@dataclass(frozen=True)
class ImageRequest:
    """One picture to make. `index` is its place in the call; the picture depends on the rest alone."""

    index: int
    prompt: str
    seed: int
    parameters: GenerationParameters

    def token_request(self, folder: ModelFolder) -> TokenRequest:
        """What the LLM is asked. Raises `RequestError` for a prompt that the model cannot take."""
        from v2flow_engine.generation.request import TokenRequest

        parameters = self.parameters
        return TokenRequest(
            prompt_token_ids=folder.prompt_encoder.encode(self.prompt, parameters.size),
            num_visual_tokens=folder.vocabulary.num_visual_tokens(parameters.size),
            seed=self.seed,
            guidance_scale=parameters.guidance_scale,
            guidance_schedule=parameters.guidance_schedule,
            temperature=parameters.temperature,
            top_k=parameters.top_k,
        )

    def decode_request(self, folder: ModelFolder, visual_token_ids: Sequence[int]) -> DecodeRequest:
        """What the decoder is asked. Raises `RequestError` for ids that are no image of this size."""
        from v2flow_engine.decoding.request import DecodeRequest

        parameters = self.parameters
        return DecodeRequest(
            codes=folder.vocabulary.codes(visual_token_ids, parameters.size),
            seed=self.seed,
            size=parameters.size,
            rounds=parameters.rounds,
            flow_steps=parameters.flow_steps,
            guidance_scale=parameters.decoder_guidance,
            temperature=parameters.decoder_temperature,
            solver=parameters.solver,
        )

    def to_row(self) -> dict[str, Any]:
        """A flat table row; `from_row` is its inverse."""
        return {"index": self.index, "prompt": self.prompt, "seed": self.seed, **self.parameters.to_dict()}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> ImageRequest:
        """A row, whose values may be numpy scalars, back to the request; further columns are ignored."""
        kinds = {"int": int, "float": float, "str": str}
        fields = dataclasses.fields(GenerationParameters)
        parameters = GenerationParameters(**{f.name: kinds[str(f.type)](row[f.name]) for f in fields})
        return cls(int(row["index"]), str(row["prompt"]), int(row["seed"]), parameters)


def draw_seed() -> int:
    """A fresh seed, short enough to be typed again."""
    return secrets.randbelow(2**32)


def plan_requests(
    prompts: str | Sequence[str], parameters: GenerationParameters, *, n: int = 1, seed: int | None = None
) -> list[ImageRequest]:
    """One request per picture: `n` of each prompt, in the order of the prompts.

    Picture k of the call (k counts over prompts x n) has the seed `seed + k`: with that seed it can be made
    again alone. `seed=None` draws a fresh one. Raises `RequestError`.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    n = check_whole("n", n, 1, MAX_IMAGES_PER_PROMPT)
    if not prompts:
        raise RequestError("no prompts: expected at least one")
    for prompt in prompts:
        if isinstance(prompt, str) and not _is_unicode(prompt):
            raise RequestError(f"a prompt must be valid Unicode text, got {prompt!r}")
    first = draw_seed() if seed is None else check_whole("seed", seed, 0, MAX_SEED)
    repeated = [prompt for prompt in prompts for _ in range(n)]
    seeds = give_seeds(first, len(repeated))
    return [ImageRequest(k, prompt, seeds[k], parameters) for k, prompt in enumerate(repeated)]


def give_seeds(seeds: int | Sequence[int], count: int) -> Sequence[int]:
    """The seeds of `count` pictures: as given, or counted on from the first one's. Raises `RequestError`."""
    if isinstance(seeds, Sequence) and not isinstance(seeds, str):
        if len(seeds) != count:
            raise RequestError(f"expected a seed for each of {count} pictures, got {len(seeds)} seeds")
        return [check_whole("seed", seed, 0, MAX_SEED) for seed in seeds]
    first = check_whole("seed", seeds, 0, MAX_SEED)
    last = first + max(count, 1) - 1
    check_whole("seed of the last picture (seed + number of pictures - 1)", last, 0, MAX_SEED)
    return range(first, first + count)


def _is_unicode(text: str) -> bool:
    """False for what Python makes of bytes that are no UTF-8, on a command line for example."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
