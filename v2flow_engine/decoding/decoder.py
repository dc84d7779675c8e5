"""DecodeRequests -> pixels: groups of like requests through the plain sampler and the autoencoder.

An image depends on its own request alone, except under dopri5 (see there). Knows nothing of prompts, files or
Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from v2flow_engine.checkpoint import TokenizerFolder
from v2flow_engine.config import Grid
from v2flow_engine.decoding.limits import Limits
from v2flow_engine.decoding.request import DecodeRequest, images_noise
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

Value = TypeVar("Value")


class Decoder:
    """The visual tokenizer's decoder and the autoencoder of one model.

    Args:
        tokenizer: in eval mode, on `device`.
        autoencoder: likewise.
        max_batch: images decoded at once.
    """

    def __init__(self, tokenizer: VisualTokenizer, autoencoder: Autoencoder, max_batch: int = 32) -> None:
        self.tokenizer = tokenizer
        self.autoencoder = autoencoder
        self.max_batch = max_batch
        self.device = tokenizer.null_condition.device
        self.limits = Limits(tokenizer.config, autoencoder.downscale)

    @classmethod
    def from_folder(
        cls, folder: TokenizerFolder, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> Decoder:
        """Load both parts of a folder, which needs no LLM."""
        tokenizer = folder.load_visual_tokenizer(device, dtype)
        return cls(tokenizer, folder.load_autoencoder(device, dtype))

    def grid_of(self, size: str) -> Grid:
        """(rows, columns) of visual tokens of pictures of `size`, "WxH"; or `RequestError`."""
        return self.limits.grid_of(size)

    def check(self, request: DecodeRequest) -> None:
        """Raise `RequestError` if this decoder cannot serve the request."""
        self.limits.check(request)

    def decode(self, requests: Sequence[DecodeRequest]) -> list[np.ndarray]:
        """Requests -> pictures in the same order, each (H, W, 3) uint8. Raises `RequestError` before any work."""
        return self._in_groups(requests, self._pictures)

    def decode_latents(self, requests: Sequence[DecodeRequest]) -> list[torch.Tensor]:
        """The same as far as latents (C, h, w), scaled, float32, on the device."""
        return self._in_groups(requests, self._latents)

    def _in_groups(
        self, requests: Sequence[DecodeRequest], work: Callable[[Sequence[DecodeRequest]], Sequence[Value]]
    ) -> list[Value]:
        """`work` on batches of requests that can go together; its results in the order of the requests."""
        groups: dict[tuple, list[int]] = {}
        for index, request in enumerate(requests):
            self.check(request)
            like = (
                request.size,
                request.rounds,
                request.flow_steps,
                request.guidance_scale,
                request.solver,
                request.guidance_schedule,
                self.limits.num_masked(request),
            )
            groups.setdefault(like, []).append(index)
        results: dict[int, Value] = {}
        for indices in groups.values():
            for start in range(0, len(indices), self.max_batch):
                batch = indices[start : start + self.max_batch]
                results |= zip(batch, work([requests[i] for i in batch]), strict=True)
        return [results[index] for index in range(len(requests))]

    @torch.inference_mode()
    def _pictures(self, requests: Sequence[DecodeRequest]) -> Sequence[np.ndarray]:
        dtype = next(self.autoencoder.parameters()).dtype
        return list(to_uint8(self.autoencoder.decode(self._latents(requests).to(dtype))))

    @torch.inference_mode()
    def _latents(self, requests: Sequence[DecodeRequest]) -> torch.Tensor:
        """Requests that can go together -> latents (B, C, h, w), float32."""
        first = requests[0]
        grid = self.grid_of(first.size)
        seeds, temperatures = zip(*((r.seed, r.temperature) for r in requests), strict=True)
        own = images_noise(self.tokenizer.config, seeds, grid, self.device, temperatures)
        return sample_latents(
            self.tokenizer,
            torch.stack([r.codes for r in requests]).to(self.device),
            own.order,
            own.noise,
            grid=grid,
            rounds=first.rounds,
            flow_steps=first.flow_steps,
            guidance_scale=first.guidance_scale,
            guidance_schedule=first.guidance_schedule,
            solver=first.solver,
            **self._known(requests),
        )

    def _known(self, requests: Sequence[DecodeRequest]) -> dict[str, torch.Tensor]:
        """What the sampler is told of known latents; nothing where every position is drawn, masked or not."""
        if all(request.redraw is None or bool(request.redraw.all()) for request in requests):
            return {}
        return {
            "known_latents": torch.stack([r.known_latents for r in requests]).to(self.device),
            "redraw": torch.stack([r.redraw for r in requests]).to(self.device),
        }


def round_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """pixels (B, 3, H, W) in about [-1, 1] -> (B, H, W, 3) uint8 on the same device, rounded."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_uint8(pixels: torch.Tensor) -> np.ndarray:
    """The same on the host."""
    return round_pixels(pixels).cpu().numpy()
