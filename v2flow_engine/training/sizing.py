"""A picture of any size -> RGB pixels of one of the sizes that are trained, the one nearest in aspect ratio.

Knows nothing of where pictures come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
from PIL import Image

from v2flow_engine.config import parse_size
from v2flow_engine.fitting import check_fit, fit_picture
from v2flow_engine.reading import WHITE, Color, to_rgb


@dataclass(frozen=True)
class Sizing:
    """sizes: "WxH" in pixels each; none leaves pictures as large as they are. fit, pad_color: see `fitting.py`.

    Raises `RequestError` for a malformed size and an unknown fit.
    """

    sizes: tuple[str, ...] = ()
    fit: str = "crop"
    pad_color: Color | None = None

    def __post_init__(self) -> None:
        check_fit(self.fit)
        for size in self.sizes:
            parse_size(size)

    def nearest(self, width: int, height: int) -> str:
        """The size for a picture: nearest in aspect ratio, then in area (both as factors)."""

        def distance(size: str) -> tuple[float, float]:
            target_width, target_height = parse_size(size)
            shape = abs(log(width / height) - log(target_width / target_height))
            # Rounded, else 64x64 and 128x128 might differ in shape by a last bit.
            return round(shape, 9), abs(log(width * height) - log(target_width * target_height))

        return min(self.sizes, key=distance)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """A PIL image of any mode -> (H, W, 3) uint8."""
        picture = to_rgb(image, self.pad_color or WHITE)
        if self.sizes:
            picture = fit_picture(picture, self.nearest(*picture.size), self.fit, self.pad_color)
        return np.asarray(picture)

    def describe(self) -> dict[str, object]:
        """What a run keeps, to go on with the same pictures; nothing if pictures are left as they are."""
        if not self.sizes:
            return {}
        color = None if self.pad_color is None else list(self.pad_color)
        return {"sizes": list(self.sizes), "fit": self.fit, "pad_color": color}
