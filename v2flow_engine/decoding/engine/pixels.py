"""latents of several sizes -> pictures: the autoencoder over batches of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from v2flow_engine.decoding.decoder import to_uint8
from v2flow_engine.models.vae import Autoencoder


def decode_pixels(autoencoder: Autoencoder, latents: Sequence[torch.Tensor], batch: int) -> list[np.ndarray]:
    """latents (C, h, w) of each image -> pictures (H, W, 3) uint8, in the same order.

    Rounding to uint8 is done on the device, so that a quarter of the bytes crosses to the host.
    """
    dtype = next(autoencoder.parameters()).dtype
    sizes: dict[torch.Size, list[int]] = {}
    for i, each in enumerate(latents):
        sizes.setdefault(each.shape, []).append(i)
    pictures: dict[int, np.ndarray] = {}
    for indices in sizes.values():
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            stacked = torch.stack([latents[i] for i in part]).to(dtype)
            pictures.update(zip(part, to_uint8(autoencoder.decode(stacked)), strict=True))
    return [pictures[i] for i in range(len(latents))]
