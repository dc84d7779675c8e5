"""`/v1/chat/completions`, for clients that draw through a chat: the last user message is the prompt."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from v2flow_engine.serving.protocol.common import (
    Body,
    Count,
    Extensions,
    OutputFormat,
    Percent,
    Quality,
    Short,
)

MAX_MESSAGES = 1000


class ContentPart(Body):
    """A part of a message; only text is read."""

    type: Short
    text: str | None = None


class ChatMessage(Body):
    """role: only messages of the user are read, and of these the last one."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None


class StreamOptions(Body):
    """include_usage: a last chunk with the token counts."""

    include_usage: bool | None = None


class ChatBody(Extensions):
    """Of the fields that shape text (max_tokens, stop, tools and the like) none means anything here."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: Short | None = None
    n: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    size: Short | None = None
    quality: Quality | None = None
    output_format: OutputFormat | None = None
    output_compression: Percent | None = None
    user: Short | None = None


class ImageUrl(BaseModel):
    """A data URL."""

    url: str


class ImagePart(BaseModel):
    """A picture of an answer."""

    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl
    index: int = 0


class AnswerMessage(BaseModel):
    """content: Markdown with the picture's URL on this server. images: the picture itself."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    images: list[ImagePart]


class Choice(BaseModel):
    """One picture."""

    index: int
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop"] = "stop"


class ChatUsage(BaseModel):
    """Tokens that the LLM read and wrote."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage


class ChunkChoice(BaseModel):
    """delta: role, content and images as they come."""

    index: int
    delta: dict[str, Any]
    logprobs: None = None
    finish_reason: Literal["stop"] | None = None


class ChatChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None
