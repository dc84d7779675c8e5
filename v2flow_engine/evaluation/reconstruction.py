"""Pictures -> what the autoencoder alone, and the whole visual tokenizer, make of them.

    pixels -> latents -> pixels          and          pixels -> latents -> codes -> latents -> pixels

Does not know where the pictures come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.config import parse_size
from v2flow_engine.decoding.decoder import Decoder, to_uint8
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.errors import RequestError
from v2flow_engine.generation.parameters import GenerationParameters

BATCH = 16


@dataclass(frozen=True)
class Reconstructions:
    """Pictures (H, W, 3) uint8 in the order of the originals; `codes` (B, S) carried the tokenizer's."""

    by_autoencoder: list[np.ndarray]
    by_tokenizer: list[np.ndarray]
    codes: torch.Tensor


class Reconstructor:
    """The autoencoder, the tokenizer's encoder and the decoder of one model.

    Attributes `size` ("WxH") and `side` (pixels) are those of its pictures.

    Args:
        folder: the model; its pictures must be square, else `RequestError`.
        device: where everything runs, in float32.
        settings: size, rounds, flow_steps and decoder_guidance are used.
    """

    def __init__(self, folder: ModelFolder, device: str, settings: GenerationParameters) -> None:
        self.size = settings.size
        width, height = parse_size(self.size)
        if width != height:
            raise RequestError(f"only models of square pictures can be measured, this one's are {self.size}")
        self.side = width
        self.settings = settings
        self.decoder = Decoder.from_folder(folder, device=device, dtype=torch.float32)
        self.tokenizer = folder.load_visual_tokenizer(device, torch.float32, with_vocabulary=True)
        self.autoencoder = self.decoder.autoencoder
        self.device = device

    def resize(self, picture: np.ndarray) -> np.ndarray:
        """A square picture (H, H, 3) uint8 -> the model's size."""
        if picture.shape[0] == self.side:
            return picture
        return np.asarray(Image.fromarray(picture).resize((self.side, self.side), Image.Resampling.LANCZOS))

    @torch.inference_mode()
    def reconstruct(self, pictures: Sequence[np.ndarray], seed: int = 0) -> Reconstructions:
        """Originals of the model's size -> both reconstructions; picture k is decoded with `seed + k`."""
        by_autoencoder: list[np.ndarray] = []
        by_tokenizer: list[np.ndarray] = []
        codes = []
        for start in range(0, len(pictures), BATCH):
            latents = self._latents(pictures[start : start + BATCH])
            by_autoencoder += list(to_uint8(self.autoencoder.decode(latents)))
            codes.append(self.tokenizer.encode(latents).cpu())
            by_tokenizer += self.decoder.decode(self._requests(codes[-1], seed + start))
        return Reconstructions(by_autoencoder, by_tokenizer, torch.cat(codes))

    @torch.inference_mode()
    def encode(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        """Originals -> codes (B, S)."""
        batches = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
        return torch.cat([self.tokenizer.encode(self._latents(batch)).cpu() for batch in batches])

    def _latents(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        return self.autoencoder.encode(to_pixels(pictures).to(self.device))

    def _requests(self, codes: torch.Tensor, seed: int) -> list[DecodeRequest]:
        settings = self.settings
        return [
            DecodeRequest(
                codes=each,
                seed=seed + index,
                size=self.size,
                rounds=settings.rounds,
                flow_steps=settings.flow_steps,
                guidance_scale=settings.decoder_guidance,
            )
            for index, each in enumerate(codes)
        ]


def to_pixels(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """(H, W, 3) uint8 each -> pixels (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
