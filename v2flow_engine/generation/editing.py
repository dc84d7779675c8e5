"""image, mask, prompt -> the image with the masked part drawn anew: tokens by the LLM, latents by the decoder.

    mask -> touched cells -> tokens to write, the others forced to the image's own
                          -> latent positions to draw, the others kept
    pixels outside the mask -> the original's own

Knows nothing of files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from v2flow_engine.errors import RequestError
from v2flow_engine.fitting import fit_mask, fit_picture
from v2flow_engine.generation.image_request import ImageRequest, plan_requests
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.generation.pipeline import GeneratedImage, describe_parameters
from v2flow_engine.masks import pixel_mask, touched_cells
from v2flow_engine.precision import named_dtype
from v2flow_engine.reading import WHITE, Color, to_rgb

if TYPE_CHECKING:
    import torch

    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.config import Grid, VisualTokenizerConfig
    from v2flow_engine.generation.pipeline import Pipeline


@dataclass(frozen=True)
class EditedImage(GeneratedImage):
    """An edited picture. original: as the model was given it; mask: mode L, white where it was drawn anew."""

    original: Image.Image
    mask: Image.Image


@dataclass(frozen=True)
class EditPlan:
    """A checked edit, all of it of one of the model's sizes.

    picture: RGB. mask: (H, W) bool, the pixels to draw anew. cells: (rows, columns) bool, the visual tokens to
    write. requests: one for each picture to make.
    """

    picture: Image.Image
    mask: np.ndarray
    cells: np.ndarray
    requests: list[ImageRequest]


def plan_edit(
    folder: ModelFolder,
    image: Image.Image,
    mask: Image.Image | None,
    prompt: str,
    *,
    n: int = 1,
    seed: int | None = None,
    fit: str = "crop",
    pad_color: Color | None = None,
    **parameters: Any,
) -> EditPlan:
    """Check and fit everything before any engine starts; arguments and errors as in `Pipeline.edit`."""
    if not isinstance(prompt, str):
        raise RequestError(f"an edit takes one prompt, got {type(prompt).__name__}")
    resolved = GenerationParameters.resolve(folder, **parameters)
    picture = fit_picture(to_rgb(image, pad_color or WHITE), resolved.size, fit, pad_color)
    fitted = fit_mask(pixel_mask(image, mask), resolved.size, fit)
    if not fitted.any():
        raise RequestError(
            f"the mask is empty: nothing of it is left once fitted to {resolved.size} by {fit}"
        )
    grid = folder.grid_of(resolved.size)
    cells = touched_cells(fitted, grid)
    positions = int(positions_in(folder.visual_tokenizer_config, cells).sum())
    resolved = dataclasses.replace(resolved, rounds=min(resolved.rounds, positions))
    folder.prompt_encoder.encode(prompt, resolved.size)
    return EditPlan(picture, fitted, cells, plan_requests([prompt], resolved, n=n, seed=seed))


def run_edit(pipeline: Pipeline, plan: EditPlan, *, raw: bool = False) -> list[EditedImage]:
    """Make the pictures of a plan, in order. Raises `EngineDeadError` if the LLM's engine stopped working."""
    folder, requests, tokenizer = pipeline.folder, plan.requests, pipeline.image_tokenizer
    latents = tokenizer.latents_of([plan.picture])
    forced = forced_ids(folder, plan, tokenizer.encode_latents(latents)[0].codes)
    written = pipeline.token_generator.generate(
        [
            dataclasses.replace(request.token_request(folder), forced_visual_token_ids=forced)
            for request in requests
        ]
    )
    redraw = positions_in(folder.visual_tokenizer_config, plan.cells).flatten()
    drawn = pipeline.decode(
        [
            dataclasses.replace(request.decode_request(folder, ids), known_latents=latents[0], redraw=redraw)
            for request, ids in zip(requests, written, strict=True)
        ]
    )
    described = describe_parameters(folder, requests[0].parameters) | named_dtype(pipeline.dtype)
    return _finish(plan, drawn, {**described, "raw": raw})


def forced_ids(folder: ModelFolder, plan: EditPlan, codes: torch.Tensor) -> list[int | None]:
    """The picture's own codes (S,) -> its visual_token_ids where they are kept, None where the LLM writes."""
    own_ids = folder.vocabulary.visual_token_ids(codes)
    return [None if cell else token_id for token_id, cell in zip(own_ids, plan.cells.flat, strict=True)]


def with_original(plan: EditPlan, pixels: np.ndarray) -> np.ndarray:
    """A drawn picture (H, W, 3) uint8 with the original's own pixels outside the mask."""
    return np.where(plan.mask[..., None], pixels, np.asarray(plan.picture))


def positions_in(config: VisualTokenizerConfig, cells: np.ndarray) -> torch.Tensor:
    """Visual tokens (rows, columns) bool -> (rows, columns) bool of the latent positions with any part in them."""
    import torch

    side, patch = config.downsample, config.patch_size
    latents = np.repeat(np.repeat(cells, side, axis=0), side, axis=1)
    grid: Grid = (latents.shape[0] // patch, latents.shape[1] // patch)
    return torch.from_numpy(touched_cells(latents, grid))


def _finish(plan: EditPlan, drawn: Sequence[np.ndarray], how: dict[str, Any]) -> list[EditedImage]:
    """The pictures with the original around them, unless `raw`, and how they were made."""
    mask = Image.fromarray(np.where(plan.mask, 255, 0).astype(np.uint8))
    made = []
    for request, pixels in zip(plan.requests, drawn, strict=True):
        shown = pixels if how["raw"] else with_original(plan, pixels)
        made.append(
            EditedImage(Image.fromarray(shown), request.prompt, request.seed, dict(how), plan.picture, mask)
        )
    return made
