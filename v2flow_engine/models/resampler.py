"""latents -> features or logits over the LLM's text vocabulary: the visual vocabulary resampler (paper, section 3.1).

Two stages of RegNet bottleneck blocks (arXiv 2003.13678) with average pooling between them, then an MLP readout.
Knows nothing of embeddings: the mixture is the visual tokenizer's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, h, w)."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Normalise each position's channels."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """Convolution without bias, then ChannelNorm, then optionally SiLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = ChannelNorm(out_channels, eps=1e-5)
        self.act = act

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        maps = self.bn(self.conv(maps))
        return F.silu(maps) if self.act else maps


class SqueezeExcite(nn.Module):
    """Channel gates from the mean over positions."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> the same, each channel scaled."""
        gates = self.fc2(F.silu(self.fc1(maps.mean((2, 3), keepdim=True))))
        return maps * gates.sigmoid()


class Bottleneck(nn.Module):
    """1x1, depthwise `kernel`, squeeze-excite, 1x1, with a residual; bottleneck ratio 1 and group width 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, squeeze: bool = True) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels)
        self.conv2 = ConvNorm(out_channels, out_channels, kernel=kernel, groups=out_channels)
        self.se = SqueezeExcite(out_channels, max(1, round(in_channels * 0.25))) if squeeze else nn.Identity()
        self.conv3 = ConvNorm(out_channels, out_channels, act=False)
        self.downsample = (
            ConvNorm(in_channels, out_channels, act=False) if in_channels != out_channels else None
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return F.silu(shortcut + self.conv3(self.se(self.conv2(self.conv1(maps)))))


class Stage(nn.Module):
    """`depth` bottlenecks named b1, b2, ...; the first changes the channels."""

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, kernel: int = 3, squeeze: bool = True
    ) -> None:
        super().__init__()
        for i in range(depth):
            block = Bottleneck(in_channels if i == 0 else out_channels, out_channels, kernel, squeeze)
            self.add_module(f"b{i + 1}", block)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        for block in self.children():
            maps = block(maps)
        return maps


def mlp(depth: int, in_features: int, out_features: int) -> nn.Sequential:
    """`depth` linear layers with GELU between them, all of the output's width but the first's input."""
    layers: list[nn.Module] = [nn.Linear(in_features, out_features)]
    for _ in range(1, depth):
        layers += [nn.GELU(), nn.Linear(out_features, out_features)]
    return nn.Sequential(*layers)


class Resampler(nn.Module):
    """latents -> one vector per visual token.

    Args:
        latent_channels: C of the latents.
        hidden: channels inside.
        out_features: V with an LLM vocabulary, else the code's dimension.
        depth: bottlenecks per stage.
        mlp_depth: linear layers of the readout.
        downsample: latents per visual token, along one side.
        readout_norm: LayerNorm before the readout. Without it the logits of a large vocabulary start nearly uniform
            and every mixture points the same way.
        local: a token sees little more than its own latents: no squeeze-excite, and 1x1 kernels after the pooling.
            What it says then does not change with the rest of the picture, which an LLM learns from fewer examples.
    """

    def __init__(
        self,
        latent_channels: int,
        hidden: int,
        out_features: int,
        depth: int,
        mlp_depth: int,
        downsample: int = 1,
        readout_norm: bool = False,
        local: bool = False,
    ) -> None:
        super().__init__()
        self.s1 = Stage(latent_channels, hidden, depth, squeeze=not local)
        self.pool = nn.AvgPool2d(downsample)
        self.s2 = Stage(hidden, hidden, depth, kernel=1 if local else 3, squeeze=not local)
        self.norm = nn.LayerNorm(hidden, eps=1e-6) if readout_norm else nn.Identity()
        self.readout = mlp(mlp_depth, hidden, out_features)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """latents (B, C, h, w) -> (B, S, out_features), tokens in raster order."""
        return self.readout(self.features(latents))

    def features(self, latents: torch.Tensor) -> torch.Tensor:
        """latents (B, C, h, w) -> what the readout is given, (B, S, hidden)."""
        maps = self.s2(F.silu(self.pool(self.s1(latents))))
        return self.norm(rearrange(maps, "b d h w -> b (h w) d"))
