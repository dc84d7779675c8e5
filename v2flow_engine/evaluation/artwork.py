"""Emoji packages -> the catalogue and the sprites that evaluation draws its true pictures from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from v2flow_engine.evaluation.cache import cache_folder
from v2flow_engine.training.emoji.catalogue import Emoji, load_catalogue
from v2flow_engine.training.emoji.compose import DEFAULT_SIZE, PALETTE, compose
from v2flow_engine.training.emoji.sources import copy_packages, fetch_packages
from v2flow_engine.training.emoji.sprites import load_sprites

PICTURE_SIZE = DEFAULT_SIZE


@dataclass(frozen=True)
class Artwork:
    """`emoji`: the catalogue. `sprites`: (hexcode, style) -> (112, 112, 4) uint8 RGBA."""

    emoji: list[Emoji]
    sprites: dict[tuple[str, str], np.ndarray]

    def hexcodes(self, style: str) -> list[str]:
        """The emoji that are drawn in this style, sorted."""
        return sorted(hexcode for hexcode, each in self.sprites if each == style)

    def picture(self, hexcode: str, style: str, background: str, count: int) -> np.ndarray:
        """The true picture, (128, 128, 3) uint8; `background` is a name of the palette."""
        return compose(self.sprites[hexcode, style], PALETTE[background], count, PICTURE_SIZE)


def packages_folder() -> Path:
    """Where `load_artwork` keeps the packages."""
    return cache_folder("emoji-packages")


def load_artwork(packages: Path | None = None) -> Artwork:
    """The emoji sets, kept in the user's cache.

    packages: a folder that holds the tarballs, used in place of the network.
    Raises `DataError` and `OutputError`.
    """
    folder = packages_folder()
    if packages is None:
        fetch_packages(folder)
    else:
        copy_packages(packages, folder)
    # One process: worker processes would start a script without a main guard anew. It happens once.
    return Artwork(load_catalogue(folder), load_sprites(folder, workers=1))
