"""An image file of any kind that Pillow reads -> an upright picture, RGB or of its own mode.

EXIF orientation is applied, unless the EXIF is broken; of an animation it is the first frame; transparent parts show a
ground colour; more than 8 bits become 8. Colour profiles are not applied. Knows nothing of sizes or models.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

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

# What is to be done with pictures of each EXIF orientation but 1.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(path: str | Path, ground: Color = WHITE) -> Image.Image:
    """An image file -> `to_rgb` of it. Raises `DataError` naming the file and what is wrong with it."""
    return _read(path, lambda image: to_rgb(image, ground))


def read_image(path: str | Path) -> Image.Image:
    """An image file -> the image, upright, with its transparency. Raises `DataError` as `read_picture` does."""
    return _read(path, upright)


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
    image = _to_8_bits(upright(image))
    if not image.has_transparency_data:
        return image.convert("RGB")
    laid = Image.new("RGBA", image.size, (*ground, 255))
    laid.alpha_composite(image.convert("RGBA"))
    return laid.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """A copy of an image, turned as its EXIF says, whose EXIF then says nothing; a broken EXIF turns nothing.

    Not `ImageOps.exif_transpose`: it also writes the EXIF anew, and fails if any tag in it is odd.
    """
    image.load()
    method = _turn(image)
    if method is None:
        return image.copy()
    turned = image.transpose(method)
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return turned


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's reader of EXIF raises nearly anything
        return None


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
