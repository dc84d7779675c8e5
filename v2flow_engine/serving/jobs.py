"""A checked body -> what is to be drawn: one job for each picture, complete with what it keeps of an original.

Everything that can be refused is refused here or before. Knows the model's folder, not its engines.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from v2flow_engine.config import parse_size
from v2flow_engine.errors import RequestError
from v2flow_engine.fitting import fit_picture
from v2flow_engine.generation.editing import EditPlan, plan_edit
from v2flow_engine.generation.image_request import ImageRequest, plan_requests
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.reading import to_rgb
from v2flow_engine.serving.protocol.common import Extensions
from v2flow_engine.serving.quality import quality_settings

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder

# The names of the extensions that are those of `GenerationParameters`.
SAME_NAMES = (
    "guidance_scale",
    "guidance_schedule",
    "temperature",
    "top_k",
    "rounds",
    "decoder_guidance",
    "decoder_temperature",
)


@dataclass(frozen=True)
class Job:
    """The pictures of one request.

    requests: one for each. source: the picture that is encoded first, for edits and variations. plan: of an edit.
    from_codes: the source's own codes are decoded, and the LLM is not asked.
    """

    requests: list[ImageRequest]
    source: np.ndarray | None = None
    plan: EditPlan | None = None
    from_codes: bool = False

    @property
    def size(self) -> str:
        """Of all its pictures."""
        return self.requests[0].parameters.size


def generation_job(folder: ModelFolder, prompt: str, body: Extensions, **fields: Any) -> Job:
    """Text -> pictures. fields: those of `Server.job_fields`. Raises `RequestError`."""
    size = _size(folder, fields.get("size"))
    parameters = GenerationParameters.resolve(folder, **_settings(folder, body, size, fields))
    requests = plan_requests(prompt, parameters, n=fields.get("n") or 1, seed=body.seed)
    _check_prompt(folder, prompt, size)
    return Job(requests)


def edit_job(
    folder: ModelFolder,
    prompt: str,
    body: Extensions,
    image: Image.Image,
    mask: Image.Image | None,
    **fields: Any,
) -> Job:
    """A picture and a mask -> the picture with a part of it drawn anew. Takes time: not for an event loop."""
    size = _size(folder, fields.get("size"), image)
    _check_prompt(folder, prompt, size)
    settings = _settings(folder, body, size, fields)
    GenerationParameters.resolve(folder, **settings)
    try:
        plan = plan_edit(folder, image, mask, prompt, n=fields.get("n") or 1, seed=body.seed, **settings)
    except RequestError as error:
        raise RequestError(str(error), error.param or "mask") from error
    return Job(plan.requests, np.asarray(plan.picture), plan)


def variation_job(folder: ModelFolder, body: Extensions, image: Image.Image, **fields: Any) -> Job:
    """A picture -> others of the same visual tokens. Takes time: not for an event loop."""
    size = _size(folder, fields.get("size"), image)
    parameters = GenerationParameters.resolve(folder, **_settings(folder, body, size, fields))
    requests = plan_requests("", parameters, n=fields.get("n") or 1, seed=body.seed)
    return Job(requests, np.asarray(fit_picture(to_rgb(image), size)), from_codes=True)


def _settings(folder: ModelFolder, body: Extensions, size: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The parameters of `GenerationParameters` that a body asks for; what it says itself goes before `quality`."""
    asked = {name: getattr(body, name) for name in SAME_NAMES} | {"flow_steps": body.num_inference_steps}
    asked = {name: value for name, value in asked.items() if value is not None}
    if body.negative_prompt:
        asked["negative_prompt"] = body.negative_prompt
    if not fields.get("guided", True):
        asked["guidance_scale"] = _unguided(body.guidance_scale)
    return {"size": size, **quality_settings(folder, fields.get("quality"), size), **asked}


def _unguided(asked: float | None) -> float:
    if asked not in (None, 1):
        told = f"this server is unguided: guidance_scale must be 1, got {asked:g}"
        raise RequestError(told, "guidance_scale")
    return 1.0


def _size(folder: ModelFolder, asked: str | None, image: Image.Image | None = None) -> str:
    """A size that the model has: as asked, or for a picture the nearest in aspect ratio, or the model's own."""
    if asked not in (None, "", "auto"):
        try:
            folder.grid_of(asked)
        except RequestError as error:
            raise RequestError(str(error), "size") from error
        return asked
    if image is None:
        return folder.config.default_size

    def distance(size: str) -> tuple[float, float]:
        width, height = parse_size(size)
        ratio = (width / height) / (image.width / image.height)
        return max(ratio, 1 / ratio), -width * height

    return min(folder.grids, key=distance)


def _check_prompt(folder: ModelFolder, prompt: str, size: str) -> None:
    try:
        folder.prompt_encoder.encode(prompt, size)
    except RequestError as error:
        raise RequestError(str(error), "prompt") from error


def alone(job: Job) -> list[Job]:
    """A job for each picture of a job."""
    return [dataclasses.replace(job, requests=[request]) for request in job.requests]
