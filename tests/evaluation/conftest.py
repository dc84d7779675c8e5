"""Artwork whose sprites are all clearly different, made of random coloured blocks."""

import numpy as np
import pytest

from v2flow_engine.evaluation.artwork import Artwork
from v2flow_engine.evaluation.depictions import Depiction
from v2flow_engine.training.emoji.catalogue import STYLES, Emoji

NUMBER = 30


def block_sprite(rng: np.random.Generator) -> np.ndarray:
    """(112, 112, 4) uint8: 7 x 7 blocks of random colours inside a disc."""
    colours = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    y, x = np.mgrid[:112, :112] - 55.5
    disc = np.where(x**2 + y**2 < 50**2, 255, 0).astype(np.uint8)
    return np.dstack([colours, disc])


@pytest.fixture(scope="session")
def artwork() -> Artwork:
    """30 emoji in every style."""
    rng = np.random.default_rng(0)
    emoji = [Emoji(f"{0x1F300 + i:X}", f"thing {i}", (), STYLES) for i in range(NUMBER)]
    return Artwork(emoji, {(each.hexcode, style): block_sprite(rng) for each in emoji for style in STYLES})


def ask(index: int, style: str = "flat", background: str = "teal", count: int = 1) -> Depiction:
    """A depiction of one of the artwork's emoji."""
    return Depiction(f"{0x1F300 + index:X}", f"thing {index}", style, background, count, "train")
