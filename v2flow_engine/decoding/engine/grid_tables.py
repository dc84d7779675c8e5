"""What images of one grid share: position embeddings, and what nothing but the null conditions gives.

Knows nothing of requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from v2flow_engine.config import Grid
from v2flow_engine.models.masked_transformer import upper_left
from v2flow_engine.models.visual_tokenizer import VisualTokenizer


@dataclass
class GridTables:
    """Rows of the embeddings for one grid, in raster order; S visual tokens, N positions.

    encoder_tokens (S, D), encoder_positions (N, D), decoder_tokens (S, D), decoder_positions (N, D),
    output_positions (N, D). null_rows: (S, D), the encoder's input for the null conditions.
    null_features: (N, D), the features of an image of which nothing is known under the null conditions: the first
        round's unconditional half, the same for all images. Filled in when it is first needed.
    """

    grid: Grid
    encoder_tokens: torch.Tensor
    encoder_positions: torch.Tensor
    decoder_tokens: torch.Tensor
    decoder_positions: torch.Tensor
    output_positions: torch.Tensor
    null_rows: torch.Tensor
    null_features: torch.Tensor | None = None

    @classmethod
    def of(cls, tokenizer: VisualTokenizer, grid: Grid) -> GridTables:
        """Cut them out of the full grid's."""
        net, positions = tokenizer.masked_transformer, tokenizer.config.positions_of(grid)
        split = math.prod(net.token_grid)

        def cut(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            tokens = upper_left(table[:, :split], net.token_grid, grid)[0]
            return tokens, upper_left(table[:, split:], net.position_grid, positions)[0]

        encoder, decoder = cut(net.encoder_position), cut(net.decoder_position)
        output = upper_left(net.output_position, net.position_grid, positions)[0]
        return cls(grid, *encoder, *decoder, output, net.input_norm(tokenizer.null_condition + encoder[0]))

    @property
    def num_visual_tokens(self) -> int:
        """S."""
        return len(self.encoder_tokens)

    @property
    def num_positions(self) -> int:
        """N."""
        return len(self.encoder_positions)
