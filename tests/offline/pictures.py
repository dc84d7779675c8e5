"""Pictures that nobody makes: the sink knows no engine."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.offline.identity import fingerprint_of, key_of
from v2flow_engine.offline.planning import Picture
from v2flow_engine.offline.sources import SourceRow
from v2flow_engine.offline.stages import FinishedImage

SETTINGS = GenerationParameters("64x64", 3.0, 1.0, 0, 2, 3, 1.0, 1.0)
MODEL: dict[str, Any] = {"model": "tiny"}


def picture(
    index: int,
    prompt: str = "a cat",
    *,
    row_id: str | None = None,
    label: str = "png",
    extra: dict[str, Any] | None = None,
    settings: GenerationParameters = SETTINGS,
) -> Picture:
    """A picture to make, the only one of its row."""
    request = ImageRequest(index, prompt, 100 + index, settings)
    picture_id = index if row_id is None else row_id
    fingerprint = fingerprint_of(prompt, request.seed, MODEL | settings.to_dict(), label)
    row = SourceRow(index + 1, f"row {index + 1}", {"prompt": prompt})
    return Picture(request, picture_id, row, extra or {}, key_of(picture_id), fingerprint)


def finished(index: int, image: bytes = b"picture", error: str = "") -> FinishedImage:
    """What a decoder hands over."""
    timings = {} if error else {"tokens": 0.125, "decoder": 0.125}
    return FinishedImage(index, b"" if error else image, error, 0.25, timings)


def png(index: int) -> bytes:
    """A small picture, another one for each index."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (index, 0, 255)).save(buffer, "PNG")
    return buffer.getvalue()
