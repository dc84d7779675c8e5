"""Artwork -> how near thumbnails are to every emoji of a style in one arrangement, on any background.

Composing is linear in the background: a picture on black and its twin on white give each cell's own colour
and how much background shows in it, and these give means and products on every colour, so that no reference
need be drawn on each. Does not know what a picture should show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from v2flow_engine.evaluation.artwork import PICTURE_SIZE, Artwork
from v2flow_engine.evaluation.thumbnails import thumbnail
from v2flow_engine.training.emoji.compose import ARRANGEMENTS, PALETTE, compose
from v2flow_engine.training.emoji.sprites import resize_sprite


@dataclass(frozen=True)
class ReferenceSet:
    """Every emoji of one style, `count` copies each; a reference is `colours + uncovered * background_rgb`.

    hexcodes: E of them, sorted.
    colours: (E, 1024, 3) float32 in 0..255, each channel's mean removed.
    uncovered: (E, 1024) float32, the share of background in a cell, its mean removed.
    """

    hexcodes: list[str]
    colours: np.ndarray
    uncovered: np.ndarray

    @classmethod
    def build(cls, artwork: Artwork, style: str, count: int) -> ReferenceSet:
        """Compose all of them."""
        hexcodes = artwork.hexcodes(style)
        width = ARRANGEMENTS[PICTURE_SIZE][count].width
        sprites = [resize_sprite(artwork.sprites[hexcode, style], width) for hexcode in hexcodes]
        on_black = _compose_all(sprites, PALETTE["black"], count)
        on_white = _compose_all(sprites, PALETTE["white"], count)
        uncovered = (on_white - on_black).mean(axis=2) / 255
        return cls(hexcodes, centre(on_black), centre(uncovered))

    def similarity(self, thumbs: np.ndarray, backgrounds_rgb: np.ndarray) -> np.ndarray:
        """Cosine of thumbnails to the references on each one's background, the mean of each channel removed.

        thumbs: (B, 32, 32, 3). backgrounds_rgb: (B, 3).
        Returns (B, E) float64, 0 where one of the two is plain.
        """
        pictures = centre(thumbs.reshape(len(thumbs), -1, 3).astype(np.float64))
        rgb = backgrounds_rgb.astype(np.float64)
        flat = pictures.reshape(len(pictures), -1)
        colours, uncovered = self.colours.astype(np.float64), self.uncovered.astype(np.float64)
        weighted = np.einsum("bpc,bc->bp", pictures, rgb)
        product = flat @ colours.reshape(len(colours), -1).T + weighted @ uncovered.T
        # |colours + uncovered * rgb|^2, term by term
        squared = (
            (colours**2).sum(axis=(1, 2))
            + 2 * rgb @ np.einsum("epc,ep->ce", colours, uncovered)
            + (rgb**2).sum(axis=1, keepdims=True) * (uncovered**2).sum(axis=1)
        )
        lengths = np.sqrt(np.maximum(squared, 0)) * np.linalg.norm(flat, axis=1, keepdims=True)
        return product / np.maximum(lengths, 1e-6)


def centre(maps: np.ndarray) -> np.ndarray:
    """(B, cells, ...) -> the same, its mean over cells removed."""
    return maps - maps.mean(axis=1, keepdims=True)


def _compose_all(sprites: Sequence[np.ndarray], background_rgb: Sequence[int], count: int) -> np.ndarray:
    """(E, 1024, 3) float32 in 0..255."""
    thumbs = [thumbnail(compose(sprite, background_rgb, count, PICTURE_SIZE)) for sprite in sprites]
    return np.stack(thumbs).reshape(len(thumbs), -1, 3)
