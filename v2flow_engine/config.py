"""The configurations that are saved beside the weights, as frozen dataclasses.

JSON object -> dataclass, refusing unknown keys. Knows nothing of torch, vLLM or files other than JSON.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from v2flow_engine.errors import ModelFolderError, RequestError

FORMAT_VERSION = 1
Grid = tuple[int, int]  # (rows, columns) of an image's visual tokens
MAX_GUIDANCE = 100.0
MAX_FLOW_STEPS = 1000
MAX_TEMPERATURE = 2.0  # vLLM's own limit; the decoder has the same
MAX_SEED = 2**63 - 1  # what a torch generator and vLLM both take
# The names in `flow.solvers`, which is not imported here because of torch.
SOLVERS = ("euler", "heun", "dpm_solver_pp_2m", "dopri5")
GUIDANCE_SCHEDULES = ("constant", "linear")
Config = TypeVar("Config")


def from_dict(cls: type[Config], values: dict[str, Any], source: str = "config") -> Config:
    """Build a config dataclass from a JSON object.

    Nested dataclasses and tuples are converted. Raises `ModelFolderError` naming unknown, missing and mistyped keys.
    """
    if not isinstance(values, dict):
        raise ModelFolderError(
            f"{source}: expected a JSON object for {cls.__name__}, got {type(values).__name__}"
        )
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ModelFolderError(
            f"{source}: unknown keys {unknown} for {cls.__name__}; known are {sorted(fields)}"
        )
    hints = typing.get_type_hints(cls)
    try:
        return cls(**{key: _convert(hints[key], value, f"{source}.{key}") for key, value in values.items()})
    except TypeError as error:
        raise ModelFolderError(f"{source}: {error}") from error


def _convert(hint: Any, value: Any, source: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in typing.get_args(hint) if a is not type(None)), value, source)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, source)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ModelFolderError(f"{source}: expected a list, got {value!r}")
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ModelFolderError(f"{source}: expected {hint.__name__}, got {value!r}")
    return value


def to_dict(config: Any) -> dict[str, Any]:
    """The JSON object of a config dataclass; `from_dict` is its inverse."""
    return dataclasses.asdict(config)


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `ModelFolderError` with the file's name if it is missing or malformed."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelFolderError(f"{path}: not readable ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def save_json(config: Any, path: Path) -> None:
    """Write a config dataclass (or a dict) as indented JSON."""
    values = to_dict(config) if dataclasses.is_dataclass(config) else config
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def parse_size(size: str) -> tuple[int, int]:
    """`"WxH"` in pixels -> (width, height). Raises `RequestError` for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size) if isinstance(size, str) else None
    if match is None:
        raise RequestError(f"size must look like 128x128 (width x height in pixels), got {size!r}")
    return int(match[1]), int(match[2])


def find_grid(grids: dict[str, Any], size: str) -> Any:
    """The grid [rows, columns] of a size "WxH" among a model's; raises `RequestError` for one the model has not."""
    if size not in grids:
        raise RequestError(f"size {size!r} is not one of this model's: {', '.join(sorted(grids))}")
    return grids[size]


@dataclass(frozen=True)
class FlowConfig:
    """How the velocity net was trained and is sampled by default.

    method: "linear_flow" (net time 1000 * noise level, output noise - data), "CondOT" (net time in [0, 1] from
        noise to data, output data - noise), or "regression": no flow, a linear layer behind the transformer says
        what the data is. That is a plain VQ tokenizer, to compare with.
    unconditional: where the unconditional input of the velocity net comes from: "transformer" (its output for the
        null conditions) or "null_condition" (the raw null vector, as the reference's linear_flow does).
    shift: time shift of the DPM-Solver++ grid, as in SD3; 1 is uniform.
    solver: one of `flow.solvers`; dopri5 chooses its own number of steps.
    guidance_schedule: how the decoder's guidance goes over the rounds: "constant", or "linear", which grows with the
        share of positions that are known, as the reference's CondOT does.
    """

    method: str = "linear_flow"
    unconditional: str = "transformer"
    shift: float = 3.0
    solver: str = "dpm_solver_pp_2m"
    guidance_schedule: str = "constant"

    def __post_init__(self) -> None:
        if self.method not in ("linear_flow", "CondOT", "regression"):
            raise ModelFolderError(
                f"flow method must be linear_flow, CondOT or regression, got {self.method!r}"
            )
        if self.unconditional not in ("transformer", "null_condition"):
            raise ModelFolderError(
                f"unconditional must be transformer or null_condition, got {self.unconditional!r}"
            )
        if self.solver not in SOLVERS:
            raise ModelFolderError(f"solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}")
        if self.guidance_schedule not in GUIDANCE_SCHEDULES:
            raise ModelFolderError(
                f"guidance_schedule must be constant or linear, got {self.guidance_schedule!r}"
            )


@dataclass(frozen=True)
class VisualTokenizerConfig:
    """Shape of a visual tokenizer: resampler, quantizer, masked transformer and velocity net.

    latent_grid is the (h, w) of the largest image's latents; smaller images take its upper left part. Every
    `patch_size`^2 latents form one latent position, every `downsample`^2 one visual token. `text_vocab_size` None means
    no LLM vocabulary: the resampler then writes features of `code_dim` directly. `readout_norm` and `resampler_local`:
    see `models.resampler.Resampler`. `readout_gain` is for vocabularies too large for a readout of their own: the
    resampler writes a query in LLM space, and its products with the centred text rows are the logits, scaled to this
    standard deviation over the vocabulary. The reference has none of the three.
    """

    latent_grid: tuple[int, int]
    latent_channels: int
    width: int
    encoder_depth: int
    decoder_depth: int
    num_heads: int
    velocity_depth: int
    velocity_width: int
    resampler_hidden: int
    resampler_depth: int
    resampler_mlp_depth: int
    codebook_size: int
    code_dim: int
    text_vocab_size: int | None = None
    projector_depth: int = 1
    patch_size: int = 1
    downsample: int = 1
    readout_norm: bool = False
    resampler_local: bool = False
    readout_gain: float | None = None
    flow: FlowConfig = field(default_factory=FlowConfig)

    @property
    def position_grid(self) -> tuple[int, int]:
        """(rows, columns) of latent positions."""
        return self.latent_grid[0] // self.patch_size, self.latent_grid[1] // self.patch_size

    @property
    def token_grid(self) -> tuple[int, int]:
        """(rows, columns) of visual tokens."""
        return self.latent_grid[0] // self.downsample, self.latent_grid[1] // self.downsample

    @property
    def num_positions(self) -> int:
        """N, latent positions of an image of the full grid."""
        return self.position_grid[0] * self.position_grid[1]

    @property
    def num_visual_tokens(self) -> int:
        """S, visual tokens of an image of the full grid."""
        return self.token_grid[0] * self.token_grid[1]

    def positions_of(self, grid: Grid) -> Grid:
        """(rows, columns) of latent positions of an image with this grid of visual tokens.

        Raises `RequestError` for a grid that is larger than the full one, or that cuts latent positions.
        """
        rows, columns = grid
        fits = 1 <= rows <= self.token_grid[0] and 1 <= columns <= self.token_grid[1]
        if (
            not fits
            or rows * self.downsample % self.patch_size
            or columns * self.downsample % self.patch_size
        ):
            raise RequestError(
                f"a grid of {rows} x {columns} visual tokens does not fit the model's of "
                f"{self.token_grid[0]} x {self.token_grid[1]}"
            )
        return rows * self.downsample // self.patch_size, columns * self.downsample // self.patch_size

    @property
    def token_channels(self) -> int:
        """Channels of one latent position, C * patch_size^2."""
        return self.latent_channels * self.patch_size**2

    def __post_init__(self) -> None:
        for name, factor in (("patch_size", self.patch_size), ("downsample", self.downsample)):
            if factor < 1 or any(side % factor for side in self.latent_grid):
                raise ModelFolderError(f"latent_grid {self.latent_grid} is not divisible by {name} {factor}")
        if self.width % self.num_heads:
            raise ModelFolderError(f"width {self.width} is not divisible by num_heads {self.num_heads}")
        if self.readout_gain is not None and (self.text_vocab_size is None or self.readout_gain <= 0):
            raise ModelFolderError(
                f"readout_gain must be above 0 and needs a text_vocab_size, got {self.readout_gain} and "
                f"{self.text_vocab_size}"
            )


@dataclass(frozen=True)
class GenerationDefaults:
    """What a request gets that does not say otherwise.

    guidance_scale, guidance_schedule, temperature and top_k (0: all) act on the LLM; rounds, flow_steps,
    decoder_guidance and decoder_temperature on the decoder.
    """

    guidance_scale: float = 3.0
    temperature: float = 1.0
    top_k: int = 0
    rounds: int = 4
    flow_steps: int = 10
    decoder_guidance: float = 1.0
    decoder_temperature: float = 1.0
    guidance_schedule: str = "constant"


@dataclass(frozen=True)
class ModelConfig:
    """MODEL/config.json: what the folder is, and its default generation parameters."""

    name: str
    default_size: str
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ModelFolderError(
                f"model folder format {self.format_version} is not the one this version reads ({FORMAT_VERSION})"
            )
