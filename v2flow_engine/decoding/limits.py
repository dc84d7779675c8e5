"""What a model can decode: the grid of a size, and whether a request fits. Knows nothing of how it is decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from v2flow_engine.config import Grid, VisualTokenizerConfig, parse_size
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.decoding.schedule import mask_lengths
from v2flow_engine.errors import RequestError


@dataclass(frozen=True)
class Limits:
    """config: the visual tokenizer's. downscale: pixels of a latent, along one side."""

    config: VisualTokenizerConfig
    downscale: int

    def grid_of(self, size: str) -> Grid:
        """(rows, columns) of visual tokens of pictures of `size`, "WxH"; any that fits into the model's full grid.

        Raises `RequestError` for other sizes.
        """
        side = self.config.downsample * self.downscale  # pixels of a visual token
        width, height = parse_size(size)
        rows, columns = self.config.token_grid
        if width % side or height % side or width > columns * side or height > rows * side:
            raise RequestError(
                f"this decoder makes pictures of up to {columns * side}x{rows * side} pixels in steps of {side}, "
                f"not {size}"
            )
        return height // side, width // side

    def num_positions(self, request: DecodeRequest) -> int:
        """N, the latent positions of the request's picture."""
        return math.prod(self.config.positions_of(self.grid_of(request.size)))

    def num_masked(self, request: DecodeRequest) -> int:
        """The positions that are to be drawn."""
        return self.num_positions(request) if request.redraw is None else int(request.redraw.sum())

    def check(self, request: DecodeRequest) -> None:
        """Raise `RequestError` if a decoder of this model cannot serve the request."""
        grid = self.grid_of(request.size)
        if tuple(request.codes.shape) != (math.prod(grid),):
            raise RequestError(
                f"a picture of {request.size} has {math.prod(grid)} codes, got shape {tuple(request.codes.shape)}"
            )
        if ((request.codes < 0) | (request.codes >= self.config.codebook_size)).any():
            raise RequestError(f"codes must lie in [0, {self.config.codebook_size})")
        if request.redraw is not None:
            self._check_known(request, grid)
        if num_masked := self.num_masked(request):  # with nothing to draw there are no rounds
            mask_lengths(num_masked, request.rounds)

    def _check_known(self, request: DecodeRequest, grid: Grid) -> None:
        downsample, num_positions = self.config.downsample, self.num_positions(request)
        latents = (self.config.latent_channels, grid[0] * downsample, grid[1] * downsample)
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
