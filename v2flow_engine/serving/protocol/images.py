"""`/v1/images/*`: what comes in, and the answers and events that go out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from v2flow_engine.serving.protocol.common import (
    Body,
    Count,
    Extensions,
    OutputFormat,
    Percent,
    PictureBody,
    Quality,
    Short,
    Usage,
)

MAX_EDITED = 16  # pictures that the API takes in one edit; this model edits one


class GenerationBody(PictureBody):
    """`POST /v1/images/generations`. style and complexity are known to the API and change nothing here."""

    style: Literal["vivid", "natural"] | None = None
    complexity: Literal["low", "medium", "high"] | None = None


class EditFields(PictureBody):
    """`POST /v1/images/edits` without its pictures. input_fidelity changes nothing: what is kept, is kept exactly."""

    input_fidelity: Literal["high", "low"] | None = None


class ImageReference(Body):
    """A picture in a JSON body: one of both.

    image_url: a data URL; no other address is fetched. file_id: of a file that was uploaded.
    """

    image_url: str | None = None
    file_id: Short | None = None


class EditBody(EditFields):
    """An edit as JSON."""

    images: Annotated[list[ImageReference], Field(min_length=1, max_length=MAX_EDITED)]
    mask: ImageReference | None = None


class VariationFields(Extensions):
    """`POST /v1/images/variations` without its picture. The LLM has no part in it, so its settings change nothing."""

    model: Short | None = None
    n: Count | None = None
    size: Short | None = None
    quality: Quality | None = None
    output_format: OutputFormat | None = None
    output_compression: Percent | None = None
    response_format: Literal["url", "b64_json"] | None = None
    user: Short | None = None


class ImageData(BaseModel):
    """One picture of an answer. seed: with it, this picture can be made again alone."""

    model_config = ConfigDict(extra="forbid")
    b64_json: str | None = None
    url: str | None = None
    seed: int


class ImagesResponse(BaseModel):
    """The answer of all three."""

    created: int
    data: list[ImageData]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "webp", "jpeg"]
    quality: Literal["low", "medium", "high", "xhigh", "max"]
    size: str
    usage: Usage
    safety_identifier: str | None = None


class ImageEvent(BaseModel):
    """One event of a stream, of `image_generation` or `image_edit`. image_index: of n pictures, which one."""

    type: Literal[
        "image_generation.partial_image",
        "image_generation.completed",
        "image_edit.partial_image",
        "image_edit.completed",
    ]
    b64_json: str
    created_at: int
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "webp", "jpeg"]
    quality: Literal["low", "medium", "high", "xhigh", "max"]
    size: str
    image_index: int
    seed: int
    partial_image_index: int | None = None
    usage: Usage | None = None
    safety_identifier: str | None = None
