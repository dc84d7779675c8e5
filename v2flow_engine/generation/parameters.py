"""A model's defaults + what the caller asks for -> one checked set of generation parameters.

The only place that knows which values are allowed. Knows nothing of prompts, seeds or engines.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from v2flow_engine.config import MAX_FLOW_STEPS, MAX_GUIDANCE, MAX_TEMPERATURE, SOLVERS
from v2flow_engine.errors import RequestError
from v2flow_engine.generation.limits import check_choice, check_number, check_whole
from v2flow_engine.guidance import NO_NEGATIVE_PROMPT, SCHEDULES

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import TokenizerFolder
    from v2flow_engine.config import Grid


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
    decoder_temperature: scale of the noise that the decoder starts from; below 1 pictures vary less and come nearer to
        the mean of what the tokens say.
    guidance_schedule: of the LLM: "constant", or "linear", from 1 to the scale over the image's visual tokens.
    solver: of the velocity field; "dopri5" chooses its own steps.
    """

    size: str
    guidance_scale: float
    temperature: float
    top_k: int
    rounds: int
    flow_steps: int
    decoder_guidance: float
    decoder_temperature: float
    guidance_schedule: str = "constant"
    solver: str = "dpm_solver_pp_2m"

    @classmethod
    def resolve(cls, folder: TokenizerFolder, **overrides: Any) -> GenerationParameters:
        """The model's defaults with every override that is not None. Raises `RequestError`."""
        values = {
            "size": folder.config.default_size,
            "solver": folder.visual_tokenizer_config.flow.solver,
            **dataclasses.asdict(folder.defaults),
        }
        names = {f.name for f in dataclasses.fields(cls)}
        if overrides.pop("negative_prompt", None) is not None:
            raise RequestError(NO_NEGATIVE_PROMPT, "negative_prompt")
        unknown = sorted(set(overrides) - names)
        if unknown:
            raise RequestError(f"unknown parameters {unknown}; known are {sorted(names)}")
        values |= {name: value for name, value in overrides.items() if value is not None}
        return cls(**_checked(folder, values))

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return dict(vars(self))  # all are plain values: dataclasses.asdict copies each, 20 times slower


def _checked(folder: TokenizerFolder, values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(values["size"], str):
        raise RequestError(f"size must look like 128x128 (width x height in pixels), got {values['size']!r}")
    grid = folder.grid_of(values["size"])
    return {
        "size": values["size"],
        "guidance_scale": check_number("guidance_scale", values["guidance_scale"], 0.0, MAX_GUIDANCE),
        "guidance_schedule": check_choice("guidance_schedule", values["guidance_schedule"], SCHEDULES),
        "temperature": check_number("temperature", values["temperature"], 0.0, MAX_TEMPERATURE),
        "top_k": check_whole("top_k", values["top_k"], 0, folder.visual_tokenizer_config.codebook_size),
        "rounds": check_whole("rounds", values["rounds"], 1, num_positions(folder, grid)),
        "flow_steps": check_whole("flow_steps", values["flow_steps"], 1, MAX_FLOW_STEPS),
        "decoder_guidance": check_number("decoder_guidance", values["decoder_guidance"], 0.0, MAX_GUIDANCE),
        "decoder_temperature": check_number(
            "decoder_temperature", values["decoder_temperature"], 0.0, MAX_TEMPERATURE
        ),
        "solver": check_choice("solver", values["solver"], SOLVERS),
    }


def num_positions(folder: TokenizerFolder, grid: Grid) -> int:
    """N, the latent positions of an image of this grid of visual tokens: as many rounds can do something."""
    return math.prod(folder.visual_tokenizer_config.positions_of(grid))
