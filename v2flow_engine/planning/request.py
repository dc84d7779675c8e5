"""The options of `v2flow plan` -> shapes of LLM and decoder, and the work for each image.

Opens configs alone, no weights. Knows nothing of devices.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.config import load_json, parse_size
from v2flow_engine.errors import ModelFolderError, RequestError
from v2flow_engine.planning.autoencoder_cost import downscale
from v2flow_engine.planning.decoder_cost import DecoderShape
from v2flow_engine.planning.llm_cost import LlmShape
from v2flow_engine.planning.presets import DECODERS, LLMS

if TYPE_CHECKING:
    from v2flow_engine.config import GenerationDefaults

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
PRESET_GUIDANCE = 3.0  # of the LLM, where no model says otherwise; any but 1 costs the same


@dataclass(frozen=True)
class Subject:
    """What is planned for: two shapes, and whether the LLM is guided. size: "WxH" in pixels."""

    llm: LlmShape
    decoder: DecoderShape
    guidance: float
    size: str


def parse_duration(text: str) -> float:
    """ "90m", "36h", "7d", "1d12h" or seconds -> seconds; raises `RequestError`."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif re.fullmatch(r"(\d+(\.\d+)?[smhdw])+", text):
        seconds = sum(float(n) * _UNITS[unit] for n, _, unit in re.findall(r"(\d+(\.\d+)?)([smhdw])", text))
    else:
        raise RequestError(f"--deadline must look like 90m, 36h, 7d or 1d12h, got {text!r}")
    if seconds <= 0:
        raise RequestError(f"--deadline must be positive, got {text!r}")
    return seconds


def find_subject(args: argparse.Namespace, llm: str) -> Subject:
    """An LLM and `--decoder`, each by name or folder, and the options of both -> shapes.

    An option that is None leaves the model's own value. Raises `RequestError`, `ModelFolderError`.
    """
    shape, defaults = _decoder(args.decoder, args.size)
    changes = {
        "rounds": args.rounds,
        "flow_steps": args.flow_steps,
        "guidance": args.decoder_guidance,
        "solver": args.solver,
    }
    shape = dataclasses.replace(shape, **{name: v for name, v in changes.items() if v is not None})
    language = LlmShape.from_config(*_llm(llm, shape.tokenizer.codebook_size))
    if args.decoder in DECODERS:  # its codes live in the LLM's space
        shape = dataclasses.replace(
            shape, tokenizer=dataclasses.replace(shape.tokenizer, code_dim=language.hidden)
        )
    guidance = args.guidance
    if guidance is None:
        guidance = defaults.guidance_scale if defaults else PRESET_GUIDANCE
    height, width = (side * downscale(shape.autoencoder) for side in shape.latent_grid)
    return Subject(language, shape, guidance, f"{width}x{height}")


def _llm(name: str, codebook_size: int) -> tuple[dict[str, Any], int, str]:
    """config.json of an LLM, by name; of an LLM's folder; or of a whole model, embedded or a folder."""
    if name in LLMS:
        return LLMS[name], codebook_size, name
    path = Path(name)
    if not (path / "config.json").is_file() or (path / "llm").is_dir():
        from v2flow_engine.checkpoint import open_model

        try:
            path = open_model(name).llm_dir
        except ModelFolderError as error:
            raise ModelFolderError(f"--llm {name!r} is not one of {', '.join(LLMS)}, and {error}") from error
    source = path / "config.json"
    return load_json(source), codebook_size, str(source)


def _decoder(name: str, size: str | None) -> tuple[DecoderShape, GenerationDefaults | None]:
    """A decoder by name, or of a folder with visual_tokenizer/ and vae/, for pictures of `size`."""
    if name in DECODERS:
        return _resized(DECODERS[name], size), None
    from v2flow_engine.checkpoint import open_tokenizer

    try:
        folder = open_tokenizer(name)
    except ModelFolderError as error:
        raise ModelFolderError(
            f"--decoder {name!r} is not one of {', '.join(DECODERS)}, and {error}"
        ) from error
    config, defaults = folder.visual_tokenizer_config, folder.defaults
    shape = DecoderShape(
        config,
        load_json(folder.path / "vae" / "config.json"),
        folder.grid_of(size or folder.config.default_size),
        defaults.rounds,
        defaults.flow_steps,
        defaults.decoder_guidance,
        config.flow.solver,
    )
    return shape, defaults


def _resized(shape: DecoderShape, size: str | None) -> DecoderShape:
    """A named decoder for smaller pictures than its largest."""
    if size is None:
        return shape
    width, height = parse_size(size)
    side = shape.tokenizer.downsample * downscale(shape.autoencoder)
    rows, columns = shape.tokenizer.token_grid
    if width % side or height % side or height // side > rows or width // side > columns:
        raise RequestError(
            f"--size must be whole multiples of {side} pixels up to {columns * side}x{rows * side}, got {size}"
        )
    return dataclasses.replace(shape, grid=(height // side, width // side))
