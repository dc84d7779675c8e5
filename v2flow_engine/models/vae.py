"""pixels <-> latents: a thin, scaled face on diffusers' deep-compression autoencoder (DC-AE, arXiv 2410.10733).

Latents leave and enter scaled (multiplied by the config's scaling_factor), so that everything behind works at unit
scale. Knows nothing of tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC
from torch import nn

from v2flow_engine.config import load_json
from v2flow_engine.errors import ModelFolderError, RequestError


class Autoencoder(nn.Module):
    """A diffusers AutoencoderDC whose latents are scaled.

    Args:
        net: the autoencoder; its config carries `scaling_factor`.
    """

    def __init__(self, net: AutoencoderDC) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Autoencoder:
        """A randomly initialised autoencoder from AutoencoderDC's own keyword arguments."""
        return cls(AutoencoderDC.from_config(config))

    @classmethod
    def from_folder(
        cls, folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> Autoencoder:
        """Load a diffusers folder (config.json + safetensors) in eval mode; raises `ModelFolderError`."""
        load_json(folder / "config.json")
        try:
            # Saving memory, diffusers would put the modules that other threads make meanwhile on the meta device.
            net = AutoencoderDC.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelFolderError(f"{folder}: not a readable AutoencoderDC folder ({error})") from error
        return cls(net).to(device=device, dtype=dtype).eval()

    @property
    def scaling_factor(self) -> float:
        """What the encoder's output is multiplied by."""
        return float(self.net.config.scaling_factor)

    @property
    def downscale(self) -> int:
        """Pixels per latent, along one side."""
        return int(self.net.spatial_compression_ratio)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w), scaled."""
        return self.net.encode(pixels).latent * self.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents (B, C, h, w), scaled -> pixels (B, 3, H, W), about [-1, 1] and not clamped."""
        return self.net.decode(latents / self.scaling_factor).sample

    def check_tile(self, tile: int) -> None:
        """Raise `RequestError` for a tile's side, in pixels, that `decode_tiled` cannot take."""
        if tile < 1 or tile % (4 * self.downscale):
            raise RequestError(f"tile must be a multiple of {4 * self.downscale} pixels, got {tile}")

    def decode_tiled(self, latents: torch.Tensor, tile: int) -> torch.Tensor:
        """The same in tiles of `tile` pixels that overlap by a quarter and are blended there, for less memory.

        Convolutions see the same within a tile; what looks at the whole picture (linear attention) sees the tile.
        Raises `RequestError`, see `check_tile`.
        """
        self.check_tile(tile)
        # Not by enable_tiling, which makes encoding tiled, too: codes would depend on how pictures are decoded.
        for side in ("height", "width"):
            setattr(self.net, f"tile_sample_min_{side}", tile)
            setattr(self.net, f"tile_sample_stride_{side}", tile * 3 // 4)
        return self.net.tiled_decode(latents / self.scaling_factor).sample
