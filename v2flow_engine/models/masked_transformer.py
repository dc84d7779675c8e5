"""(latent_tokens, mask, conditions) -> features of every position (paper, section 3.2; MAR, arXiv 2406.11838).

The encoder sees the conditions and the positions that are known; the decoder sees all positions, unknown ones as a
mask token. Knows nothing of rounds or of noise.
"""

from __future__ import annotations

import torch
from torch import nn

from v2flow_engine.models.transformer import NORM_EPS, Block


class MaskedTransformer(nn.Module):
    """Masked encoder and decoder.

    Args:
        token_channels: C p^2, channels of a latent position.
        width: D.
        num_visual_tokens: S, conditions of an image, which stand before the positions.
        num_positions: N.
    """

    def __init__(
        self,
        token_channels: int,
        width: int,
        encoder_depth: int,
        decoder_depth: int,
        num_heads: int,
        num_visual_tokens: int,
        num_positions: int,
    ) -> None:
        super().__init__()
        self.num_visual_tokens = num_visual_tokens
        self.num_positions = num_positions
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

    def forward(
        self, latent_tokens: torch.Tensor, known: torch.Tensor, conditions: torch.Tensor
    ) -> torch.Tensor:
        """One pass.

        Args:
            latent_tokens: (B, N, C p^2); only rows named in `known` are read.
            known: (B, M) int64, the known positions of each image in ascending order, the same number in each.
            conditions: (B, S, D).

        Returns:
            features (B, N, D).
        """
        batch, num_conditions = latent_tokens.shape[0], self.num_visual_tokens
        rows = known[..., None]
        latents = self.latent_proj(latent_tokens.gather(1, rows.expand(-1, -1, latent_tokens.shape[-1])))
        positions = self.encoder_position[0, num_conditions:][known]
        sequence = torch.cat(
            [conditions + self.encoder_position[:, :num_conditions], latents + positions], dim=1
        )
        sequence = self.input_norm(sequence)
        for block in self.encoder_blocks:
            sequence = block(sequence)
        sequence = self.decoder_embed(self.encoder_norm(sequence))

        width = sequence.shape[-1]
        unmasked = self.mask_token.to(sequence.dtype).expand(batch, self.num_positions, width)
        unmasked = unmasked.scatter(1, rows.expand(-1, -1, width), sequence[:, num_conditions:])
        sequence = torch.cat([sequence[:, :num_conditions], unmasked], dim=1) + self.decoder_position
        for block in self.decoder_blocks:
            sequence = block(sequence)
        return self.decoder_norm(sequence)[:, num_conditions:] + self.output_position
