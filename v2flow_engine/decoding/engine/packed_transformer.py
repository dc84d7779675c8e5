"""Images of different grids and rounds -> features of the positions that this round draws, in one pass.

Rows of all images lie behind each other, so products see one long list without padding; attention alone knows where
images end. An image's positions stand in the order in which they are drawn: known ones, this round's, later ones.
Against `models.masked_transformer`:

- the encoder's input row of a position is made once, when the position becomes known, not in every round;
- the last decoder block computes keys and values of all rows, all else for this round's positions alone.

Knows nothing of requests, guidance or noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from v2flow_engine.decoding.engine.attention import KINDS, Attend
from v2flow_engine.decoding.engine.row_functions import RowFunction
from v2flow_engine.models.masked_transformer import MaskedTransformer
from v2flow_engine.models.transformer import Block


@dataclass(frozen=True)
class PackedImage:
    """One image under one set of conditions.

    conditions: (S, D) and known: (k, D), the encoder's input. decoder_rows: (S + N, D), the decoder's embeddings.
    output_rows: (M, D), the output's embeddings of the positions to draw, which stand behind the known ones.
    """

    conditions: torch.Tensor
    known: torch.Tensor
    decoder_rows: torch.Tensor
    output_rows: torch.Tensor

    @property
    def encoder_length(self) -> int:
        """S + k."""
        return len(self.conditions) + len(self.known)

    @property
    def decoder_length(self) -> int:
        """S + N."""
        return len(self.decoder_rows)

    @property
    def num_chosen(self) -> int:
        """M."""
        return len(self.output_rows)

    def lengths(self) -> tuple[int, int, int]:
        """What must be equal for two images to share attention without padding."""
        return self.decoder_length, self.encoder_length, self.num_chosen


class PackedTransformer:
    """A masked transformer over packed images.

    Args:
        net: in eval mode; its weights are shared.
        attention: one of `engine.attention.KINDS`.
        wrap: how row functions are run.
    """

    def __init__(
        self, net: MaskedTransformer, attention: str, wrap: Callable[[RowFunction], RowFunction]
    ) -> None:
        self.net = net
        self.make_attend = KINDS[attention]
        self.encoder_blocks = [_PackedBlock(block, wrap) for block in net.encoder_blocks]
        self.decoder_blocks = [_PackedBlock(block, wrap) for block in net.decoder_blocks]

    def latent_rows(self, latents: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """latents (k, C p^2) and their position embeddings (k, D) -> the encoder's input rows (k, D)."""
        return self.net.input_norm(self.net.latent_proj(latents.to(positions.dtype)) + positions)

    def __call__(self, images: Sequence[PackedImage]) -> list[torch.Tensor]:
        """Features (M, D) of each image, in the order given."""
        order = sorted(range(len(images)), key=lambda i: images[i].lengths())
        features = self._forward([images[i] for i in order])
        results = dict(zip(order, features.split([images[i].num_chosen for i in order]), strict=True))
        return [results[i] for i in range(len(images))]

    def _forward(self, images: Sequence[PackedImage]) -> torch.Tensor:
        encoded = torch.cat([rows for image in images for rows in (image.conditions, image.known)])
        device, lengths = encoded.device, [image.encoder_length for image in images]
        if self.encoder_blocks:
            attend = self.make_attend(lengths, lengths, device)
            for block in self.encoder_blocks:
                encoded = block(encoded, attend)
        hidden = self._decoder_input(images, self.net.decoder_embed(self.net.encoder_norm(encoded)), lengths)
        lengths = [image.decoder_length for image in images]
        if len(self.decoder_blocks) > 1:
            attend = self.make_attend(lengths, lengths, device)
            for block in self.decoder_blocks[:-1]:
                hidden = block(hidden, attend)
        if self.decoder_blocks:
            attend = self.make_attend([image.num_chosen for image in images], lengths, device)
            chosen = self.decoder_blocks[-1].chosen(hidden, lambda rows: choose(rows, images), attend)
        else:
            chosen = choose(hidden, images)
        return self.net.decoder_norm(chosen) + torch.cat([image.output_rows for image in images])

    def _decoder_input(
        self, images: Sequence[PackedImage], encoded: torch.Tensor, lengths: list[int]
    ) -> torch.Tensor:
        """What the encoder gave, mask tokens behind it, and the decoder's embeddings."""
        mask_token = self.net.mask_token[0].to(encoded.dtype)
        rows = [
            piece
            for image, own in zip(images, encoded.split(lengths), strict=True)
            for piece in (own, mask_token.expand(image.decoder_length - len(own), -1))
        ]
        return torch.cat(rows) + torch.cat([image.decoder_rows for image in images])


def choose(rows: torch.Tensor, images: Sequence[PackedImage]) -> torch.Tensor:
    """All decoder rows (T, ...) -> those of the positions to draw."""
    parts = rows.split([image.decoder_length for image in images])
    return torch.cat(
        [part.narrow(0, i.encoder_length, i.num_chosen) for part, i in zip(parts, images, strict=True)]
    )


class _PackedBlock:
    """A transformer block on flat rows (T, D)."""

    def __init__(self, block: Block, wrap: Callable[[RowFunction], RowFunction]) -> None:
        self.block, self.heads = block, block.attn.num_heads
        self.qkv = wrap(lambda rows: block.attn.qkv(block.norm1(rows)))
        self.key_value = wrap(self._key_value)
        self.query = wrap(self._query)
        self.finish = wrap(self._finish)

    def _query(self, rows: torch.Tensor) -> torch.Tensor:
        linear, width = self.block.attn.qkv, rows.shape[-1]
        return F.linear(self.block.norm1(rows), linear.weight[:width], linear.bias[:width])

    def _key_value(self, rows: torch.Tensor) -> torch.Tensor:
        linear, width = self.block.attn.qkv, rows.shape[-1]
        return F.linear(self.block.norm1(rows), linear.weight[width:], linear.bias[width:])

    def _finish(self, rows: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        rows = rows + self.block.attn.proj(mixed)
        return rows + self.block.mlp(self.block.norm2(rows))

    def __call__(self, rows: torch.Tensor, attend: Attend) -> torch.Tensor:
        """(T, D) -> (T, D)."""
        query, key, value = self.qkv(rows).unflatten(-1, (3, self.heads, -1)).unbind(1)
        return self.finish(rows, attend(query, key, value).flatten(1))

    def chosen(
        self, rows: torch.Tensor, choose: Callable[[torch.Tensor], torch.Tensor], attend: Attend
    ) -> torch.Tensor:
        """(T, D) -> the chosen rows alone."""
        own = choose(rows)
        query = self.query(own).unflatten(-1, (self.heads, -1))
        key, value = self.key_value(rows).unflatten(-1, (2, self.heads, -1)).unbind(1)
        return self.finish(own, attend(query, key, value).flatten(1))
