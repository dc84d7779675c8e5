"""Thumbnails -> the background's colour and the number of copies, read from the picture alone.

The background is the median of the outermost ring of cells, which no arrangement covers. The count is that of
the arrangement whose mean silhouette, taken over the artwork, is most like the picture's own foreground.
Neither knows what was asked for.
"""

from __future__ import annotations

import numpy as np

from v2flow_engine.evaluation.artwork import PICTURE_SIZE, Artwork
from v2flow_engine.evaluation.thumbnails import thumbnail
from v2flow_engine.training.emoji.compose import COUNTS, PALETTE, compose

# A cell this near to the background, in RGB levels, belongs to it; from the second distance on it is all
# foreground. Noise and a decoder's ringing leave a plain surface within the first.
_BACKGROUND_DISTANCE = 20.0
_FOREGROUND_DISTANCE = 60.0


def read_background_rgb(thumbs: np.ndarray) -> np.ndarray:
    """(B, 32, 32, 3) -> (B, 3), the median colour of the outermost cells."""
    ring = np.ones(thumbs.shape[1:3], dtype=bool)
    ring[1:-1, 1:-1] = False
    return np.median(thumbs[:, ring], axis=1)


def read_backgrounds(thumbs: np.ndarray) -> list[str]:
    """(B, 32, 32, 3) -> the palette's nearest name for each."""
    names = list(PALETTE)
    palette = np.array([PALETTE[name] for name in names], np.float32)
    distances = np.linalg.norm(read_background_rgb(thumbs)[:, None] - palette, axis=-1)
    return [names[index] for index in distances.argmin(axis=1)]


def foreground(thumbs: np.ndarray) -> np.ndarray:
    """(B, 32, 32, 3) -> (B, 32, 32) in 0..1: how far each cell is from its picture's background."""
    distances = np.linalg.norm(thumbs - read_background_rgb(thumbs)[:, None, None], axis=-1)
    return np.clip((distances - _BACKGROUND_DISTANCE) / (_FOREGROUND_DISTANCE - _BACKGROUND_DISTANCE), 0, 1)


class CountReader:
    """Tells the arrangements apart.

    Args:
        artwork: gives the mean silhouette of a sprite, of which each arrangement has its copies.
    """

    def __init__(self, artwork: Artwork) -> None:
        self.silhouettes = np.stack([thumbnail(picture)[..., 0] for picture in mean_silhouettes(artwork)])

    def read(self, thumbs: np.ndarray) -> list[int]:
        """(B, 32, 32, 3) -> the count in each. A picture without any foreground reads as the first, 1."""
        similarity = _centred(foreground(thumbs)) @ _centred(self.silhouettes).T
        return [COUNTS[index] for index in similarity.argmax(axis=1)]


def mean_silhouettes(artwork: Artwork) -> list[np.ndarray]:
    """For each count, the mean coverage of all sprites as a grey picture (128, 128, 3) uint8."""
    total = np.zeros(next(iter(artwork.sprites.values())).shape[:2])
    for sprite in artwork.sprites.values():
        total += sprite[..., 3]
    mean = np.full((*total.shape, 4), 255, np.uint8)
    mean[..., 3] = np.round(total / len(artwork.sprites))
    return [compose(mean, (0, 0, 0), count, PICTURE_SIZE) for count in COUNTS]


def _centred(maps: np.ndarray) -> np.ndarray:
    """(B, 32, 32) -> (B, 1024), mean removed, unit length; a constant map becomes zero."""
    flat = maps.reshape(len(maps), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
