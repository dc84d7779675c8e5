"""Images -> which pixels, and which cells of a grid, are to be drawn anew.

A mask with transparent parts means these, as in the OpenAI images API; an opaque one means its white parts. A
picture without a mask means its own transparent parts. What is half transparent, or grey, counts from the middle
on. Knows nothing of files or models.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from v2flow_engine.config import Grid
from v2flow_engine.errors import RequestError
from v2flow_engine.reading import to_rgb, upright

MIDDLE = 128


def pixel_mask(image: Image.Image, mask: Image.Image | None) -> np.ndarray:
    """The pixels of an image that are to be drawn anew, (height, width) bool, upright.

    Raises `RequestError` for a mask of another size, an empty one, and for no mask of an opaque image.
    """
    own = image if mask is None else mask
    if not isinstance(own, Image.Image):
        raise RequestError(f"expected a PIL image, got {type(own).__name__}")
    found = _transparent(own)
    if mask is None and not found.any():
        raise RequestError("expected a mask, or an image with transparent parts; the image has none")
    if mask is not None:
        if not found.any():
            found = np.asarray(to_rgb(mask).convert("L")) >= MIDDLE
        height, width = _transparent(image).shape
        if found.shape != (height, width):
            raise RequestError(
                f"the mask must have the image's size, {width}x{height}, got {found.shape[1]}x{found.shape[0]}"
            )
        if not found.any():
            raise RequestError("the mask is empty: nothing of it is white or transparent")
    return found


def _transparent(image: Image.Image) -> np.ndarray:
    turned = upright(image)
    if not turned.has_transparency_data:
        return np.zeros((turned.height, turned.width), dtype=bool)
    return np.asarray(turned.convert("RGBA").getchannel("A")) < MIDDLE


def touched_cells(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """(H, W) bool -> (rows, columns) bool: the cells of the grid that hold any pixel of the mask."""
    rows, columns = grid
    height, width = mask.shape
    return mask.reshape(rows, height // rows, columns, width // columns).any(axis=(1, 3))
