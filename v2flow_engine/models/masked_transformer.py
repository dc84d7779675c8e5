"""(latent_tokens, mask, conditions) -> features of every position (paper, section 3.2; MAR, arXiv 2406.11838).

The encoder sees the conditions and the positions that are known; the decoder sees all positions, unknown ones as a
mask token. Knows nothing of rounds or of noise.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from v2flow_engine.config import Grid
from v2flow_engine.models.transformer import NORM_EPS, Block


class MaskedTransformer(nn.Module):
    """Masked encoder and decoder.

    Args:
        token_channels: C p^2, channels of a latent position.
        width: D.
        token_grid: (rows, columns) of the full grid of conditions, which stand before the positions.
        position_grid: (rows, columns) of its latent positions.

    Smaller images take the upper left part of both: a position's embedding belongs to its row and column.
    """

    def __init__(
        self,
        token_channels: int,
        width: int,
        encoder_depth: int,
        decoder_depth: int,
        num_heads: int,
        token_grid: Grid,
        position_grid: Grid,
    ) -> None:
        super().__init__()
        self.token_grid, self.position_grid = token_grid, position_grid
        num_visual_tokens, num_positions = math.prod(token_grid), math.prod(position_grid)
        self.latent_proj = nn.Linear(token_channels, width)
        self.encoder_position = nn.Parameter(torch.zeros(1, num_visual_tokens + num_positions, width))
        self.input_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.encoder_blocks = nn.ModuleList(Block(width, num_heads) for _ in range(encoder_depth))
        self.encoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder_embed = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_position = nn.Parameter(torch.zeros(1, num_visual_tokens + num_positions, width))
        self.decoder_blocks = nn.ModuleList(Block(width, num_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.output_position = nn.Parameter(torch.zeros(1, num_positions, width))
        self._initialise()

    def _initialise(self) -> None:
        for parameter in (
            self.encoder_position,
            self.decoder_position,
            self.output_position,
            self.mask_token,
        ):
            nn.init.normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def _table(self, table: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        """An embedding (1, S + N, D) of the full grid -> its rows (1, S', D) and (1, N', D) for a smaller one."""
        split = math.prod(self.token_grid)
        return (
            upper_left(table[:, :split], self.token_grid, grid),
            upper_left(table[:, split:], self.position_grid, self._positions_of(grid)),
        )

    def _positions_of(self, grid: Grid) -> Grid:
        (rows, columns), (full_rows, full_columns) = grid, self.token_grid
        return self.position_grid[0] * rows // full_rows, self.position_grid[1] * columns // full_columns

    def forward(
        self,
        latent_tokens: torch.Tensor,
        known: torch.Tensor,
        conditions: torch.Tensor,
        grid: Grid | None = None,
    ) -> torch.Tensor:
        """One pass over images of one grid.

        Args:
            latent_tokens: (B, N, C p^2); only rows named in `known` are read.
            known: (B, M) int64, the known positions of each image in ascending order, the same number in each.
            conditions: (B, S, D).
            grid: (rows, columns) of the images' visual tokens; None is the full grid.

        Returns:
            features (B, N, D).
        """
        grid = grid or self.token_grid
        batch, num_conditions, num_positions = len(conditions), conditions.shape[1], latent_tokens.shape[1]
        token_table, position_table = self._table(self.encoder_position, grid)
        rows = known[..., None]
        latents = self.latent_proj(latent_tokens.gather(1, rows.expand(-1, -1, latent_tokens.shape[-1])))
        sequence = torch.cat([conditions + token_table, latents + position_table[0][known]], dim=1)
        sequence = self.input_norm(sequence)
        for block in self.encoder_blocks:
            sequence = block(sequence)
        sequence = self.decoder_embed(self.encoder_norm(sequence))

        width = sequence.shape[-1]
        unmasked = self.mask_token.to(sequence.dtype).expand(batch, num_positions, width)
        unmasked = unmasked.scatter(1, rows.expand(-1, -1, width), sequence[:, num_conditions:])
        sequence = torch.cat([sequence[:, :num_conditions], unmasked], dim=1)
        sequence = sequence + torch.cat(self._table(self.decoder_position, grid), dim=1)
        for block in self.decoder_blocks:
            sequence = block(sequence)
        output_table = upper_left(self.output_position, self.position_grid, self._positions_of(grid))
        return self.decoder_norm(sequence)[:, num_conditions:] + output_table


def upper_left(table: torch.Tensor, full: Grid, part: Grid) -> torch.Tensor:
    """Rows (1, R C, D) of a grid in raster order -> those (1, r c, D) of its upper left part."""
    return table.unflatten(1, full)[:, : part[0], : part[1]].flatten(1, 2)
