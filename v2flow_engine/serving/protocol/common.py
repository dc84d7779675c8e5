"""What several bodies share: strictness, bounded types, and the settings of a picture."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from v2flow_engine.config import GUIDANCE_SCHEDULES, MAX_FLOW_STEPS, MAX_GUIDANCE, MAX_SEED, MAX_TEMPERATURE

MAX_N, MAX_PROMPT_CHARS, MAX_PARTIAL_IMAGES = 10, 32_000, 3


class Body(BaseModel):
    """Numbers are numbers and texts are texts; fields that are not known are let pass, as OpenAI does."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


def _refuse(values: dict[str, str]) -> BeforeValidator:
    """Values that the API knows and this model cannot do, each with the reason."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in values:
            raise PydanticCustomError("not_supported", "{reason}", {"reason": values[value]})
        return value

    return BeforeValidator(check)


_OPAQUE = {"transparent": "this model draws opaque pictures only"}
_STILL = {each: f"{each} is not made here, only png, webp and jpeg" for each in ("gif", "svg")}

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
Quality = Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"]
Background = Annotated[Literal["opaque", "auto"], _refuse(_OPAQUE)]
OutputFormat = Annotated[Literal["png", "webp", "jpeg"], _refuse(_STILL)]
Count = Annotated[int, Field(ge=1, le=MAX_N)]
Percent = Annotated[int, Field(ge=0, le=100)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)]
Short = Annotated[str, Field(max_length=512)]


class Extensions(Body):
    """Settings that OpenAI's API has not; the SDK sends them by `extra_body`."""

    seed: Seed | None = None
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)] | None = None
    guidance_scale: Guidance | None = None
    guidance_schedule: Literal[GUIDANCE_SCHEDULES] | None = None  # type: ignore[valid-type]
    temperature: Temperature | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    rounds: Annotated[int, Field(ge=1)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=MAX_FLOW_STEPS)] | None = None
    decoder_guidance: Guidance | None = None
    decoder_temperature: Temperature | None = None


class PictureBody(Extensions):
    """What generations and edits have in common."""

    prompt: Prompt
    model: Short | None = None
    n: Count | None = None
    size: Short | None = None
    quality: Quality | None = None
    background: Background | None = None
    moderation: Literal["low", "auto"] | None = None
    output_format: OutputFormat | None = None
    output_compression: Percent | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL_IMAGES)] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    safety_identifier: Short | None = None
    user: Short | None = None


class TokensDetails(BaseModel):
    """text_tokens: of the prompt, as the LLM reads it. image_tokens: of the picture that was given."""

    text_tokens: int
    image_tokens: int


class Usage(BaseModel):
    """Tokens that were read and written, over all pictures of the answer."""

    input_tokens: int
    input_tokens_details: TokensDetails
    output_tokens: int
    output_tokens_details: TokensDetails
    total_tokens: int


class ErrorDetail(BaseModel):
    """What went wrong, and which parameter is to blame."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is no success."""

    error: ErrorDetail
