"""One sprite, a background colour and a count -> a picture.

The arrangement is fixed. At 128 pixels every copy of two to four starts 4 pixels after a multiple of 16, so
copies differ by whole 16-pixel cells and look alike to anything that cuts the picture into such cells.
Does not know captions or files.
"""

from collections.abc import Sequence

import numpy as np

from v2flow_engine.errors import DataError
from v2flow_engine.training.emoji.sprites import resize_sprite

BASE_SIZE = 128
SIZES: tuple[int, ...] = (128, 256)

PALETTE: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "red": (220, 30, 40),
    "orange": (250, 140, 20),
    "yellow": (250, 225, 50),
    "green": (40, 160, 60),
    "teal": (0, 170, 180),
    "blue": (30, 90, 225),
    "purple": (140, 45, 170),
    "pink": (250, 160, 200),
    "brown": (115, 65, 25),
}

# A random colour gets a name only this near to it; half the smallest distance between two names is 45.
NAME_DISTANCE = 40.0

# count -> the (x, y) of each copy's upper left corner, and the copies' width, in a picture of BASE_SIZE
POSITIONS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((8, 8),),
    2: ((4, 36), (68, 36)),
    3: ((36, 4), (4, 68), (68, 68)),
    4: ((4, 4), (68, 4), (4, 68), (68, 68)),
}
SPRITE_WIDTHS: dict[int, int] = {1: 112, 2: 56, 3: 56, 4: 56}
COUNTS: tuple[int, ...] = tuple(POSITIONS)


def sprite_size(size: int) -> int:
    """The width of the sprites to load for pictures of `size`: that of a single copy."""
    return SPRITE_WIDTHS[1] * size // BASE_SIZE


def compose(
    sprite_rgba: np.ndarray, background_rgb: Sequence[int], count: int, size: int = BASE_SIZE
) -> np.ndarray:
    """Places `count` copies of a sprite on a plain background.

    sprite_rgba: (P, P, 4) uint8, straight alpha, any P (sprite_size(size) spares single copies a resampling).
    Returns (size, size, 3) uint8. Raises DataError for a count or a size that has no arrangement.
    """
    if count not in POSITIONS:
        raise DataError(f"no arrangement of {count} copies; expected one of {list(COUNTS)}")
    if size not in SIZES:
        raise DataError(f"no arrangement for pictures of {size} pixels; expected one of {list(SIZES)}")
    scale = size // BASE_SIZE
    width = SPRITE_WIDTHS[count] * scale
    patch = _over(resize_sprite(sprite_rgba, width), background_rgb)
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = background_rgb
    for x, y in POSITIONS[count]:
        picture[y * scale : y * scale + width, x * scale : x * scale + width] = patch
    return picture


def nearest_colour_name(rgb: Sequence[int]) -> str | None:
    """The palette's name for a colour, or None where no name is close enough to be said."""
    name = min(PALETTE, key=lambda each: _squared_distance(PALETTE[each], rgb))
    return name if _squared_distance(PALETTE[name], rgb) <= NAME_DISTANCE**2 else None


def _over(sprite_rgba: np.ndarray, background_rgb: Sequence[int]) -> np.ndarray:
    alpha = sprite_rgba[..., 3:].astype(np.uint16)
    mixed = sprite_rgba[..., :3] * alpha + np.asarray(background_rgb, np.uint16) * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _squared_distance(left: Sequence[int], right: Sequence[int]) -> int:
    return sum((int(a) - int(b)) ** 2 for a, b in zip(left, right, strict=True))
