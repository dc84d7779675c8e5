"""DecodeRequests -> pixels: groups of like requests through the plain sampler and the autoencoder.

An image depends on its own codes and seed alone. Knows nothing of prompts, files or Ray.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.decoding.request import DecodeRequest, image_noise
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.decoding.schedule import mask_lengths
from v2flow_engine.errors import RequestError
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer


class Decoder:
    """The visual tokenizer's decoder and the autoencoder of one model.

    Args:
        tokenizer: in eval mode, on `device`.
        autoencoder: likewise.
        full_size: "WxH" of the pictures that the tokenizer's grid makes.
        max_batch: images decoded at once.
    """

    def __init__(
        self, tokenizer: VisualTokenizer, autoencoder: Autoencoder, full_size: str, max_batch: int = 32
    ) -> None:
        self.tokenizer = tokenizer
        self.autoencoder = autoencoder
        self.full_size = full_size
        self.max_batch = max_batch
        self.device = tokenizer.null_condition.device

    @classmethod
    def from_folder(
        cls, folder: ModelFolder, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> Decoder:
        """Load both parts of a model folder; dtype None is float32."""
        dtype = dtype or torch.float32
        tokenizer = folder.load_visual_tokenizer(device, dtype)
        autoencoder = folder.load_autoencoder(device, dtype)
        rows, columns = tokenizer.config.latent_grid
        return cls(
            tokenizer, autoencoder, f"{columns * autoencoder.downscale}x{rows * autoencoder.downscale}"
        )

    def check(self, request: DecodeRequest) -> None:
        """Raise `RequestError` if this decoder cannot serve the request."""
        config = self.tokenizer.config
        if request.size != self.full_size:
            raise RequestError(f"this decoder makes pictures of {self.full_size}, not {request.size}")
        if tuple(request.codes.shape) != (config.num_visual_tokens,):
            raise RequestError(
                f"expected {config.num_visual_tokens} codes, got shape {tuple(request.codes.shape)}"
            )
        if ((request.codes < 0) | (request.codes >= config.codebook_size)).any():
            raise RequestError(f"codes must lie in [0, {config.codebook_size})")
        mask_lengths(config.num_positions, request.rounds)

    def decode(self, requests: Sequence[DecodeRequest]) -> list[np.ndarray]:
        """Requests -> pictures in the same order, each (H, W, 3) uint8. Raises `RequestError` before any work."""
        groups: dict[tuple[int, int, float], list[int]] = {}
        for index, request in enumerate(requests):
            self.check(request)
            groups.setdefault((request.rounds, request.flow_steps, request.guidance_scale), []).append(index)
        pictures: list[np.ndarray | None] = [None] * len(requests)
        for indices in groups.values():
            for start in range(0, len(indices), self.max_batch):
                batch = indices[start : start + self.max_batch]
                for index, picture in zip(batch, self._decode([requests[i] for i in batch]), strict=True):
                    pictures[index] = picture
        return [picture for picture in pictures if picture is not None]

    @torch.inference_mode()
    def _decode(self, requests: Sequence[DecodeRequest]) -> np.ndarray:
        first = requests[0]
        own = [image_noise(self.tokenizer.config, r.seed) for r in requests]
        latents = sample_latents(
            self.tokenizer,
            torch.stack([r.codes for r in requests]).to(self.device),
            torch.stack([n.order for n in own]).to(self.device),
            torch.stack([n.noise for n in own]).to(self.device),
            rounds=first.rounds,
            flow_steps=first.flow_steps,
            guidance_scale=first.guidance_scale,
        )
        dtype = next(self.autoencoder.parameters()).dtype
        return to_uint8(self.autoencoder.decode(latents.to(dtype)))


def to_uint8(pixels: torch.Tensor) -> np.ndarray:
    """pixels (B, 3, H, W) in about [-1, 1] -> (B, H, W, 3) uint8, rounded."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
