"""An image file of any kind that Pillow reads -> an upright picture, RGB or of its own mode.

EXIF orientation is applied; of an animation it is the first frame; transparent parts show a ground colour; more
than 8 bits become 8. Colour profiles are not applied. Knows nothing of sizes or models.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from v2flow_engine.errors import DataError, RequestError

Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)
# What Pillow's readers raise for files that are damaged, cut short, too large or of an unknown kind.
READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_picture(path: str | Path, ground: Color = WHITE) -> Image.Image:
    """An image file -> `to_rgb` of it. Raises `DataError` naming the file and what is wrong with it."""
    return _read(path, lambda image: to_rgb(image, ground))


def read_image(path: str | Path) -> Image.Image:
    """An image file -> the image, upright, with its transparency. Raises `DataError` as `read_picture` does."""
    return _read(path, ImageOps.exif_transpose)


def _read(path: str | Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Odd EXIF fields or many pixels: nothing that the owner of the file has to act on here.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return convert(image)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no picture that can be read: an unknown format") from error
    except READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} is no picture that can be read: {reason}") from error


def to_rgb(image: Image.Image, ground: Color = WHITE) -> Image.Image:
    """A PIL image of any mode -> RGB, upright; what is transparent shows `ground`.

    Raises `RequestError` for what is no PIL image, and what Pillow raises while it reads the pixels.
    """
    if not isinstance(image, Image.Image):
        raise RequestError(f"expected a PIL image, got {type(image).__name__}")
    image = _to_8_bits(ImageOps.exif_transpose(image))
    if not image.has_transparency_data:
        return image.convert("RGB")
    laid = Image.new("RGBA", image.size, (*ground, 255))
    laid.alpha_composite(image.convert("RGBA"))
    return laid.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, scaled to 8: Pillow's own conversion would clip it at 255.

    Integers are taken to span 16 bits, floats to span [0, 1] unless one is larger, then [0, 255].
    """
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scaled = values * (255.0 if values.max(initial=0.0) <= 1.0 else 1.0)
    elif image.mode == "I" or image.mode.startswith("I;16"):
        scaled = np.asarray(image) / 257.0
    else:
        return image
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
