"""latents of several sizes -> pictures on their way to the host: the autoencoder over batches of one size.

    latents -> pixels (large pictures in tiles) -> rounded to uint8 on the device -> the host, without waiting

Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from v2flow_engine.decoding.decoder import round_pixels
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.models.vae import Autoencoder


@dataclass(frozen=True)
class HostPicture:
    """A picture that is being copied to the host.

    pixels: (H, W, 3) uint8 on the host. copied: when they are there; None if they are.
    """

    pixels: torch.Tensor
    copied: torch.cuda.Event | None

    def numpy(self) -> np.ndarray:
        """(H, W, 3) uint8. The thread that asks waits for it, and nobody else."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.pixels.numpy()


class PixelDecoder:
    """An autoencoder as the engine runs it.

    Args:
        autoencoder: in eval mode. Its weights are laid out channels-last, which changes results by rounding.
    """

    def __init__(self, autoencoder: Autoencoder, settings: EngineSettings) -> None:
        self.autoencoder = autoencoder.to(memory_format=torch.channels_last)
        self.batch, self.tile = settings.pixel_batch, settings.tile
        if self.tile is not None:
            autoencoder.check_tile(self.tile)
        self.dtype = next(autoencoder.parameters()).dtype

    def __call__(self, latents: Sequence[torch.Tensor]) -> list[HostPicture]:
        """latents (C, h, w) of each image -> pictures, in the same order."""
        sizes: dict[torch.Size, list[int]] = {}
        for i, each in enumerate(latents):
            sizes.setdefault(each.shape, []).append(i)
        pictures: dict[int, HostPicture] = {}
        for indices in sizes.values():
            for start in range(0, len(indices), self.batch):
                part = indices[start : start + self.batch]
                stacked = torch.stack([latents[i] for i in part]).to(self.dtype)
                pictures.update(zip(part, self._to_host(self._decode(stacked)), strict=True))
        return [pictures[i] for i in range(len(latents))]

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents (B, C, h, w) -> (B, H, W, 3) uint8, on the device."""
        latents = latents.contiguous(memory_format=torch.channels_last)
        longest = max(latents.shape[-2:]) * self.autoencoder.downscale
        if self.tile is None or longest <= self.tile:
            return round_pixels(self.autoencoder.decode(latents))
        return round_pixels(self.autoencoder.decode_tiled(latents, self.tile))

    def _to_host(self, pictures: torch.Tensor) -> list[HostPicture]:
        if pictures.device.type != "cuda":
            return [HostPicture(each, None) for each in pictures]
        host = torch.empty(pictures.shape, dtype=torch.uint8, pin_memory=True)
        host.copy_(pictures, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return [HostPicture(each, copied) for each in host]
