"""A model's defaults + what the caller asks for -> one checked set of generation parameters.

The only place that knows which values are allowed. Knows nothing of prompts, seeds or engines.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import RequestError

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder

MAX_GUIDANCE = 100.0
MAX_TEMPERATURE = 100.0
MAX_FLOW_STEPS = 1000


@dataclass(frozen=True)
class GenerationParameters:
    """How a picture is made; with the model, the prompt and the seed it determines the picture.

    size: "WxH" in pixels.
    guidance_scale: classifier-free guidance of the LLM; 1 is none.
    temperature: of the LLM's sampling; 0 takes the likeliest token.
    top_k: the LLM samples among its k likeliest visual tokens; 0 means all.
    rounds: masked autoregressive rounds of the decoder, 1..N.
    flow_steps: solver steps of the velocity field in each round.
    decoder_guidance: classifier-free guidance of the decoder; 1 is none.
    """

    size: str
    guidance_scale: float
    temperature: float
    top_k: int
    rounds: int
    flow_steps: int
    decoder_guidance: float

    @classmethod
    def resolve(cls, folder: ModelFolder, **overrides: Any) -> GenerationParameters:
        """The model's defaults with every override that is not None. Raises `RequestError`."""
        values = {"size": folder.config.default_size, **dataclasses.asdict(folder.defaults)}
        names = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(overrides) - names)
        if unknown:
            raise RequestError(f"unknown parameters {unknown}; known are {sorted(names)}")
        values |= {name: value for name, value in overrides.items() if value is not None}
        return cls(**_checked(folder, values))

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return dataclasses.asdict(self)


def _checked(folder: ModelFolder, values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(values["size"], str):
        raise RequestError(f"size must look like 128x128 (width x height in pixels), got {values['size']!r}")
    folder.vocabulary.check_size(values["size"])
    return {
        "size": values["size"],
        "guidance_scale": _real("guidance_scale", values["guidance_scale"], 0.0, MAX_GUIDANCE),
        "temperature": _real("temperature", values["temperature"], 0.0, MAX_TEMPERATURE),
        "top_k": check_whole("top_k", values["top_k"], 0, folder.vocabulary.codebook_size),
        "rounds": check_whole("rounds", values["rounds"], 1, num_positions(folder, values["size"])),
        "flow_steps": check_whole("flow_steps", values["flow_steps"], 1, MAX_FLOW_STEPS),
        "decoder_guidance": _real("decoder_guidance", values["decoder_guidance"], 0.0, MAX_GUIDANCE),
    }


def num_positions(folder: ModelFolder, size: str) -> int:
    """N, the latent positions of an image of this size: as many rounds can do something."""
    config = folder.visual_tokenizer_config
    return folder.vocabulary.num_visual_tokens(size) * config.downsample**2 // config.patch_size**2


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """Return `value` as an int in [low, high]; raises `RequestError` naming the parameter."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return value


def _real(name: str, value: Any, low: float, high: float) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
    return float(value)
