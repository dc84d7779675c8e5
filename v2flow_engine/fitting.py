"""RGB pictures of any size -> exactly the size of a model: cropped, padded or stretched.

    crop      scale until the short side fits, cut out the centre: nothing is added, something may be lost
    pad       scale until the long side fits, fill the rest with a colour: nothing is lost
    stretch   scale both sides, whatever becomes of the proportions

Scaling is Lanczos, in either direction; a mask goes the same way. Knows nothing of files or models.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor, ImageOps

from v2flow_engine.config import parse_size
from v2flow_engine.errors import RequestError
from v2flow_engine.reading import Color

FITS = ("crop", "pad", "stretch")


def check_fit(fit: str) -> str:
    """Return the mode; raises `RequestError` unless it is one of `FITS`."""
    if fit not in FITS:
        raise RequestError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")
    return fit


def parse_color(text: str) -> Color:
    """A colour as CSS writes it ("white", "#ffcc00", "rgb(255, 204, 0)") -> (red, green, blue).

    Raises `RequestError` for anything else, and for a colour that is itself transparent.
    """
    try:
        color = ImageColor.getrgb(text)
    except ValueError as error:
        raise RequestError(
            f"a colour must look like white, #ffcc00 or rgb(255,204,0), got {text!r}"
        ) from error
    if len(color) != 3:
        raise RequestError(f"a colour must be opaque, got {text!r}")
    return color


def fit_picture(
    picture: Image.Image, size: str, fit: str = "crop", pad_color: Color | None = None
) -> Image.Image:
    """An RGB picture -> one of `size`.

    Args:
        size: "WxH" in pixels.
        fit: one of `FITS`; what would be cut off or filled is halved between both ends.
        pad_color: fills the rest in "pad"; None takes `border_color(picture)`.
    """
    if check_fit(fit) == "pad" and pad_color is None:
        pad_color = border_color(picture)
    return _fit(picture, size, fit, pad_color, Image.Resampling.LANCZOS)


def fit_mask(mask: np.ndarray, size: str, fit: str = "crop") -> np.ndarray:
    """A mask of a picture -> the mask of that picture fitted: True where a True pixel has any part in a new one.

    Args:
        mask: (height, width) bool. size, fit: as for the picture; what padding adds is False.

    Returns:
        (H, W) bool.
    """
    # Floats, so that a pixel among thousands that become one is not rounded away; a box, so that none spreads.
    image = Image.fromarray(np.asarray(mask, dtype=np.float32))
    return np.asarray(_fit(image, size, check_fit(fit), 0, Image.Resampling.BOX)) > 0


def _fit(
    image: Image.Image, size: str, fit: str, pad_color: Color | int | None, resampling: Image.Resampling
) -> Image.Image:
    target = parse_size(size)
    if fit == "stretch":
        return image.resize(target, resampling)
    if fit == "crop":
        return ImageOps.fit(image, target, resampling)
    return ImageOps.pad(image, target, resampling, color=pad_color)


def border_color(picture: Image.Image) -> Color:
    """The mean colour of the picture's outermost pixels: an emoji on plain ground is continued by that ground."""
    pixels = np.asarray(picture)
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[1:-1, 1:-1] = True
    red, green, blue = np.rint(pixels[~inside].mean(axis=0)).astype(int).tolist()
    return red, green, blue
