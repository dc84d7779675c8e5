"""One sprite, a background colour and a count -> a picture.

The arrangement is fixed. But for a single copy in a picture of 128 x 128, every copy starts 4 pixels after a multiple
of 16, so copies differ by whole 16-pixel cells and look alike to anything that cuts the picture into such cells.
Does not know captions or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from v2flow_engine.config import parse_size
from v2flow_engine.errors import DataError
from v2flow_engine.training.emoji.sprites import resize_sprite

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


@dataclass(frozen=True)
class Arrangement:
    """(x, y) of each copy's upper left corner, and the copies' width, in pixels."""

    corners: tuple[tuple[int, int], ...]
    width: int

    def scaled(self, factor: int) -> "Arrangement":
        """The same, `factor` times larger."""
        return Arrangement(tuple((x * factor, y * factor) for x, y in self.corners), self.width * factor)


_SQUARE = {
    1: Arrangement(((8, 8),), 112),
    2: Arrangement(((4, 36), (68, 36)), 56),
    3: Arrangement(((36, 4), (4, 68), (68, 68)), 56),
    4: Arrangement(((4, 4), (68, 4), (4, 68), (68, 68)), 56),
}
# size "WxH" in pixels -> count -> arrangement
ARRANGEMENTS: dict[str, dict[int, Arrangement]] = {
    "128x128": _SQUARE,
    "64x64": {1: Arrangement(((4, 4),), 56)},
    "128x64": {1: Arrangement(((36, 4),), 56), 2: Arrangement(((4, 4), (68, 4)), 56)},
    "64x128": {1: Arrangement(((4, 36),), 56), 2: Arrangement(((4, 4), (4, 68)), 56)},
    "256x256": {count: arrangement.scaled(2) for count, arrangement in _SQUARE.items()},
}
DEFAULT_SIZE = "128x128"
SIZES: tuple[str, ...] = tuple(ARRANGEMENTS)
COUNTS: tuple[int, ...] = tuple(_SQUARE)


def counts_of(size: str) -> tuple[int, ...]:
    """How many copies a picture of `size` can show. Raises DataError for an unknown size."""
    if size not in ARRANGEMENTS:
        raise DataError(f"no arrangement for pictures of {size} pixels; expected one of {', '.join(SIZES)}")
    return tuple(ARRANGEMENTS[size])


def sprite_size(size: str) -> int:
    """The width of the sprites to load for pictures of `size`: a single copy's in a square picture.

    Smaller copies are resized from these, so that they look the same in every size.
    """
    return _SQUARE[1].width * (2 if size == "256x256" else 1)


def compose(
    sprite_rgba: np.ndarray, background_rgb: Sequence[int], count: int, size: str = DEFAULT_SIZE
) -> np.ndarray:
    """Places `count` copies of a sprite on a plain background.

    sprite_rgba: (P, P, 4) uint8, straight alpha, any P (sprite_size(size) spares single copies a resampling).
    Returns (H, W, 3) uint8. Raises DataError for a count or a size that has no arrangement.
    """
    if count not in counts_of(size):
        raise DataError(
            f"no arrangement of {count} copies in {size} pixels; expected one of {list(counts_of(size))}"
        )
    arrangement = ARRANGEMENTS[size][count]
    width, height = parse_size(size)
    patch = _over(resize_sprite(sprite_rgba, arrangement.width), background_rgb)
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = background_rgb
    for x, y in arrangement.corners:
        picture[y : y + arrangement.width, x : x + arrangement.width] = patch
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
