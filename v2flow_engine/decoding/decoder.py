"""DecodeRequests -> pixels: groups of like requests through the plain sampler and the autoencoder.

An image depends on its own request alone, except under dopri5 (see there). Knows nothing of prompts, files or
Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from v2flow_engine.checkpoint import TokenizerFolder
from v2flow_engine.config import Grid, parse_size
from v2flow_engine.decoding.request import DecodeRequest, images_noise
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
        max_batch: images decoded at once.
    """

    def __init__(self, tokenizer: VisualTokenizer, autoencoder: Autoencoder, max_batch: int = 32) -> None:
        self.tokenizer = tokenizer
        self.autoencoder = autoencoder
        self.max_batch = max_batch
        self.device = tokenizer.null_condition.device

    @classmethod
    def from_folder(
        cls, folder: TokenizerFolder, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> Decoder:
        """Load both parts of a folder, which needs no LLM; dtype None is float32."""
        dtype = dtype or torch.float32
        tokenizer = folder.load_visual_tokenizer(device, dtype)
        return cls(tokenizer, folder.load_autoencoder(device, dtype))

    def grid_of(self, size: str) -> Grid:
        """(rows, columns) of visual tokens of pictures of `size`, "WxH"; any that fits into the model's full grid.

        Raises `RequestError` for other sizes.
        """
        config = self.tokenizer.config
        side = config.downsample * self.autoencoder.downscale  # pixels of a visual token
        width, height = parse_size(size)
        rows, columns = config.token_grid
        if width % side or height % side or width > columns * side or height > rows * side:
            raise RequestError(
                f"this decoder makes pictures of up to {columns * side}x{rows * side} pixels in steps of {side}, "
                f"not {size}"
            )
        return height // side, width // side

    def check(self, request: DecodeRequest) -> None:
        """Raise `RequestError` if this decoder cannot serve the request."""
        config = self.tokenizer.config
        grid = self.grid_of(request.size)
        if tuple(request.codes.shape) != (math.prod(grid),):
            raise RequestError(
                f"a picture of {request.size} has {math.prod(grid)} codes, got shape {tuple(request.codes.shape)}"
            )
        if ((request.codes < 0) | (request.codes >= config.codebook_size)).any():
            raise RequestError(f"codes must lie in [0, {config.codebook_size})")
        num_positions = math.prod(config.positions_of(grid))
        if request.redraw is not None:
            self._check_known(request, grid, num_positions)
        if num_masked := self._num_masked(request):  # with nothing to draw there are no rounds
            mask_lengths(num_masked, request.rounds)

    def _check_known(self, request: DecodeRequest, grid: Grid, num_positions: int) -> None:
        config = self.tokenizer.config
        latents = (config.latent_channels, grid[0] * config.downsample, grid[1] * config.downsample)
        if tuple(request.known_latents.shape) != latents:
            raise RequestError(
                f"a picture of {request.size} has latents of shape {latents}, "
                f"got {tuple(request.known_latents.shape)}"
            )
        if tuple(request.redraw.shape) != (num_positions,) or request.redraw.dtype != torch.bool:
            raise RequestError(
                f"redraw must be {num_positions} booleans for a picture of {request.size}, got "
                f"{tuple(request.redraw.shape)} of {request.redraw.dtype}"
            )

    def _num_masked(self, request: DecodeRequest) -> int:
        """The positions that are to be drawn."""
        if request.redraw is not None:
            return int(request.redraw.sum())
        return math.prod(self.tokenizer.config.positions_of(self.grid_of(request.size)))

    def decode(self, requests: Sequence[DecodeRequest]) -> list[np.ndarray]:
        """Requests -> pictures in the same order, each (H, W, 3) uint8. Raises `RequestError` before any work."""
        groups: dict[tuple[str, int, int, float, int], list[int]] = {}
        for index, request in enumerate(requests):
            self.check(request)
            like = (
                request.size,
                request.rounds,
                request.flow_steps,
                request.guidance_scale,
                self._num_masked(request),
            )
            groups.setdefault(like, []).append(index)
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
        grid = self.grid_of(first.size)
        own = images_noise(self.tokenizer.config, (r.seed for r in requests), grid, self.device)
        temperatures = torch.tensor([r.temperature for r in requests], device=self.device)
        latents = sample_latents(
            self.tokenizer,
            torch.stack([r.codes for r in requests]).to(self.device),
            own.order,
            own.noise * temperatures[:, None, None],
            grid=grid,
            rounds=first.rounds,
            flow_steps=first.flow_steps,
            guidance_scale=first.guidance_scale,
            **self._known(requests),
        )
        dtype = next(self.autoencoder.parameters()).dtype
        return to_uint8(self.autoencoder.decode(latents.to(dtype)))

    def _known(self, requests: Sequence[DecodeRequest]) -> dict[str, torch.Tensor]:
        """What the sampler is told of known latents; nothing where every position is drawn, masked or not."""
        if all(request.redraw is None or bool(request.redraw.all()) for request in requests):
            return {}
        return {
            "known_latents": torch.stack([r.known_latents for r in requests]).to(self.device),
            "redraw": torch.stack([r.redraw for r in requests]).to(self.device),
        }


def to_uint8(pixels: torch.Tensor) -> np.ndarray:
    """pixels (B, 3, H, W) in about [-1, 1] -> (B, H, W, 3) uint8, rounded."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
