"""Pictures of any size -> thumbnails of 32 x 32, the only thing that the judges look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from v2flow_engine.errors import DataError

THUMBNAIL_SIZE = 32


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (32, 32, 3) float32 in 0..255: the mean colour of each cell.

    Raises `DataError` unless the picture is square and of RGB bytes: the arrangements are squares.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise DataError(f"expected a picture (H, W, 3) of uint8, got {picture.shape} of {picture.dtype}")
    if picture.shape[0] != picture.shape[1]:
        raise DataError(f"only square pictures can be judged, got {picture.shape[1]}x{picture.shape[0]}")
    size = picture.shape[0]
    if size % THUMBNAIL_SIZE == 0:
        step = size // THUMBNAIL_SIZE
        rows = picture.reshape(THUMBNAIL_SIZE, step, size * 3).sum(axis=1, dtype=np.uint32)
        cells = rows.reshape(THUMBNAIL_SIZE, THUMBNAIL_SIZE, step, 3).sum(axis=2, dtype=np.uint32)
        return cells.astype(np.float32) / step**2
    weights = _cell_weights(size)
    return np.einsum("ay,bx,yxc->abc", weights, weights, picture.astype(np.float32), optimize=True)


def thumbnails(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures -> (B, 32, 32, 3) float32."""
    return np.stack([thumbnail(picture) for picture in pictures])


def _cell_weights(size: int) -> np.ndarray:
    """(32, size): how much of each pixel lies in each cell along one side; rows sum to one."""
    edges = np.linspace(0, size, THUMBNAIL_SIZE + 1)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * (THUMBNAIL_SIZE / size)).astype(np.float32)
