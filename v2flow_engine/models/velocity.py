"""(x_t, time, features) -> velocity: the small MLP that is integrated for each latent position (MAR, arXiv 2406.11838).

Each row is one position of one image. Knows nothing of the path's convention: time is whatever it was trained with.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from v2flow_engine.models.transformer import NORM_EPS

FREQUENCIES = 256


def sinusoid(time: torch.Tensor, dim: int = FREQUENCIES, max_period: float = 10000.0) -> torch.Tensor:
    """time (M,) -> (M, dim): cosines then sines of geometrically spaced frequencies, in float32."""
    half = dim // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=time.device) / half
    )
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """time (M,) -> (M, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: torch.Tensor) -> torch.Tensor:
        """Sinusoids through a two-layer MLP."""
        return self.mlp(sinusoid(time).to(self.mlp[0].weight.dtype))


class ResBlock(nn.Module):
    """An MLP modulated by shift, scale and gate (AdaLN, arXiv 2212.09748)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, hidden: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """(M, W), (M, W) -> (M, W)."""
        shift, scale, gate = self.adaLN_modulation(modulation).chunk(3, dim=-1)
        return hidden + gate * self.mlp(self.in_ln(hidden) * (1 + scale) + shift)


class FinalLayer(nn.Module):
    """The modulated projection to the output."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, hidden: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """(M, W), (M, W) -> (M, out_channels)."""
        shift, scale = self.adaLN_modulation(modulation).chunk(2, dim=-1)
        hidden = F.layer_norm(hidden, hidden.shape[-1:], eps=NORM_EPS)
        return self.linear(hidden * (1 + scale) + shift)


class RegressionHead(nn.Module):
    """What stands in the velocity net's place where there is no flow: features -> data, whatever x_t and time are."""

    def __init__(self, channels: int, feature_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_width, channels)

    def forward(self, x_t: torch.Tensor, time: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """features (M, D) -> (M, C p^2)."""
        return self.linear(features)


class VelocityNet(nn.Module):
    """An MLP of `depth` modulated blocks.

    Args:
        channels: C p^2, channels of a latent position.
        feature_width: D of the masked transformer's features.
        width: W inside.
    """

    def __init__(self, channels: int, feature_width: int, width: int, depth: int) -> None:
        super().__init__()
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(feature_width, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, channels)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.time_embed.mlp[0], self.time_embed.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        # Zero modulation and output: the net starts as the zero field, and each block as the identity.
        for layer in (
            *(b.adaLN_modulation[1] for b in self.res_blocks),
            self.final_layer.adaLN_modulation[1],
            self.final_layer.linear,
        ):
            nn.init.zeros_(layer.weight)

    def forward(self, x_t: torch.Tensor, time: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """x_t (M, C p^2), time (M,), features (M, D) -> the net's output (M, C p^2)."""
        modulation = self.time_embed(time) + self.cond_embed(features)
        hidden = self.input_proj(x_t)
        for block in self.res_blocks:
            hidden = block(hidden, modulation)
        return self.final_layer(hidden, modulation)
