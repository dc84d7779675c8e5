"""A pre-norm transformer block of the ViT form (arXiv 2010.11929), used by the masked encoder and decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Full self-attention with fused query, key and value."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)."""
        query, key, value = rearrange(self.qkv(features), "b l (t h d) -> t b h l d", t=3, h=self.num_heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "b h l d -> b l (h d)"))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(F.gelu(self.fc1(features)))


class Block(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm, each with a residual."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = FeedForward(width, mlp_ratio * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)."""
        features = features + self.dropout(self.attn(self.norm1(features)))
        return features + self.dropout(self.mlp(self.norm2(features)))
