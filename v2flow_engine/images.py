"""pixels -> PNG, WebP or JPEG bytes that say how they were made, and back.

PNG carries the text chunks `prompt`, `seed` and `parameters` (JSON); WebP and JPEG carry one JSON object in
the Exif field UserComment. Knows nothing of models.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from v2flow_engine.errors import DataError, OutputError, RequestError
from v2flow_engine.png import encode_png

FORMATS = ("png", "webp", "jpeg")
SUFFIXES = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
# Pillow's; chosen by benchmarks/bench_encoders.py: method 2 takes less than half of 4's time for 1 or 2 % more bytes.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "webp": {"quality": 90, "method": 2},
    "jpeg": {"quality": 95, "subsampling": 0},
}
# Exif 2.3, UserComment: eight bytes name the character code. JSON escapes all else, so ASCII is unambiguous.
_USER_COMMENT_PREFIX = b"ASCII\0\0\0"


@dataclass(frozen=True)
class ImageMetadata:
    """How a picture was made: enough to make it again."""

    prompt: str
    seed: int
    parameters: dict[str, Any] = field(default_factory=dict)


def check_format(image_format: str) -> str:
    """Return the format; raises `RequestError` unless it is one of `FORMATS`."""
    if image_format not in FORMATS:
        raise RequestError(f"image format must be one of {', '.join(FORMATS)}, got {image_format!r}")
    return image_format


def format_of(path: str | Path) -> str:
    """The format that a file name asks for; raises `OutputError` for an unknown suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def encode_image(
    pixels: np.ndarray | Image.Image,
    image_format: str = "png",
    metadata: ImageMetadata | None = None,
    quality: int | None = None,
) -> bytes:
    """pixels -> the bytes of an image file.

    Args:
        pixels: (H, W, 3) uint8, or a PIL image.
        image_format: "png" (lossless), "webp" or "jpeg".
        metadata: written into the file when given.
        quality: of WebP and JPEG, 1 to 100; None is high.
    """
    check_format(image_format)
    if not isinstance(pixels, Image.Image):
        _check_pixels(pixels)
    if image_format == "png":
        return encode_png(_channels_last(pixels), None if metadata is None else _png_texts(metadata))
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    options = dict(_SAVE_OPTIONS[image_format])
    if quality is not None and "quality" in options:
        options["quality"] = quality
    if metadata is not None:
        options |= _exif_comment(metadata)
    buffer = io.BytesIO()
    image.save(buffer, format=image_format.upper(), **options)
    return buffer.getvalue()


def _check_pixels(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise RequestError(f"pixels must be uint8 of shape (H, W, 3), got {pixels.dtype} {pixels.shape}")


def _channels_last(pixels: np.ndarray | Image.Image) -> np.ndarray:
    """(H, W, channels); of modes with a palette or more bits, what Pillow makes of them in RGB or RGBA."""
    if not isinstance(pixels, Image.Image):
        return pixels
    if pixels.mode not in ("L", "LA", "RGB", "RGBA"):
        pixels = pixels.convert("RGBA" if pixels.has_transparency_data else "RGB")
    return np.atleast_3d(np.asarray(pixels))


def _png_texts(metadata: ImageMetadata) -> dict[str, str]:
    parameters = json.dumps(metadata.parameters, sort_keys=True)
    return {"prompt": metadata.prompt, "seed": str(metadata.seed), "parameters": parameters}


def _exif_comment(metadata: ImageMetadata) -> dict[str, Any]:
    values = {"prompt": metadata.prompt, "seed": metadata.seed, "parameters": metadata.parameters}
    exif = Image.Exif()
    comment = _USER_COMMENT_PREFIX + json.dumps(values, sort_keys=True).encode("ascii")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return {"exif": exif.tobytes()}


def read_metadata(source: str | Path | bytes) -> ImageMetadata | None:
    """What `encode_image` wrote into a file or its bytes; None for a picture that carries no such thing.

    Raises `DataError` for a missing file and for what is no picture.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.format == "PNG":
                image.load()  # text chunks may follow the pixels
                return _from_png(dict(image.text))
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
            return _from_comment(comment)
    except (FileNotFoundError, IsADirectoryError, UnidentifiedImageError) as error:
        raise DataError(f"not a readable picture: {error}") from error


def _from_png(text: dict[str, str]) -> ImageMetadata | None:
    try:
        return ImageMetadata(str(text["prompt"]), int(text["seed"]), json.loads(text["parameters"]))
    except (KeyError, ValueError):
        return None


def _from_comment(comment: bytes | str | None) -> ImageMetadata | None:
    if isinstance(comment, str):
        comment = comment.encode("ascii", "replace")
    if not comment or not comment.startswith(_USER_COMMENT_PREFIX):
        return None
    try:
        values = json.loads(comment[len(_USER_COMMENT_PREFIX) :])
        return ImageMetadata(values["prompt"], values["seed"], values["parameters"])
    except (KeyError, TypeError, ValueError):
        return None
