"""An AutoencoderDC's config -> the work of its decoder: latents to pixels.

Counts what diffusers' `AutoencoderDC.decode` computes. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from v2flow_engine.errors import ModelFolderError
from v2flow_engine.planning.work import Work, convolution, linear

# What diffusers takes where a config says nothing.
_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "latent_channels": 32,
    "attention_head_dim": 32,
    "decoder_block_types": "ResBlock",
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "upsample_block_type": "pixel_shuffle",
}


def autoencoder_work(config: dict[str, Any], latent_grid: tuple[int, int]) -> Work:
    """Decoding the latents (h, w) of one image. Raises `ModelFolderError` for a kind of block that is unknown."""
    values = _DEFAULTS | {name: config[name] for name in _DEFAULTS if name in config}
    channels, layers = values["decoder_block_out_channels"], values["decoder_layers_per_block"]
    kinds = values["decoder_block_types"]
    kinds = [kinds] * len(channels) if isinstance(kinds, str) else kinds
    interpolate = values["upsample_block_type"] == "interpolate"
    pixels = latent_grid[0] * latent_grid[1]
    work = convolution(pixels, values["latent_channels"], channels[-1])
    before = [*channels[1:], None]  # what a stage is enlarged from; the innermost one is not
    stages = list(zip(kinds, channels, layers, values["decoder_qkv_multiscales"], before, strict=True))
    for kind, width, depth, scales, inner in reversed(stages):
        if inner is not None and depth:
            work += _enlarge(pixels, inner, width, interpolate)
            pixels *= 4
        work += _block(kind, pixels, width, scales, values["attention_head_dim"]) * depth
    if layers[0]:
        return work + convolution(pixels, channels[0], values["in_channels"])
    return work + _enlarge(pixels, channels[1], values["in_channels"], interpolate)


def autoencoder_parameters(config: dict[str, Any]) -> float:
    """Numbers in the decoder's kernels; each is read once whatever the grid."""
    return autoencoder_work(config, (1, 1)).weights


def widest_map(config: dict[str, Any], latent_grid: tuple[int, int]) -> int:
    """Numbers in the largest map of features: pixels times channels."""
    values = _DEFAULTS | {name: config[name] for name in _DEFAULTS if name in config}
    channels, layers = values["decoder_block_out_channels"], values["decoder_layers_per_block"]
    latents = latent_grid[0] * latent_grid[1]
    sides = [4 ** (len(channels) - 1 - stage) for stage in range(len(channels))]
    return max(latents * s * c for s, c, depth in zip(sides, channels, layers, strict=True) if depth)


def downscale(config: dict[str, Any]) -> int:
    """Pixels per latent, along one side."""
    return 2 ** (len(config.get("decoder_block_out_channels", _DEFAULTS["decoder_block_out_channels"])) - 1)


def _enlarge(pixels: int, inputs: int, outputs: int, interpolate: bool) -> Work:
    """To twice the side: a convolution after interpolating, or one whose channels become pixels."""
    if interpolate:
        return convolution(4 * pixels, inputs, outputs)
    return convolution(pixels, inputs, 4 * outputs)


def _block(kind: str, pixels: int, width: int, scales: Sequence[int], head_dim: int) -> Work:
    if kind == "ResBlock":
        return convolution(pixels, width, width) * 2
    if kind == "EfficientViTBlock":
        return _linear_attention(pixels, width, scales, head_dim) + _gated(pixels, width)
    raise ModelFolderError(
        f"vae: a block {kind!r} can't be counted; known are ResBlock and EfficientViTBlock"
    )


def _linear_attention(pixels: int, width: int, scales: Sequence[int], head_dim: int) -> Work:
    """EfficientViT's attention over several scales (arXiv 2205.14756): linear in the pixels, if there are many."""
    heads = width // head_dim
    inner = heads * head_dim
    work = linear(pixels, width, inner) * 3
    for kernel in scales:
        work += convolution(pixels, 3 * inner, 3 * inner, kernel, groups=3 * inner)
        work += convolution(pixels, 3 * inner, 3 * inner, 1, groups=3 * heads)
    groups = heads * (1 + len(scales))
    if pixels > head_dim:
        mixed = Work(4.0 * pixels * head_dim * (head_dim + 1), 0.0, 4.0 * pixels * head_dim)
    else:
        mixed = Work(4.0 * pixels**2 * head_dim, 0.0, 4.0 * pixels * head_dim)
    return work + mixed * groups + linear(pixels, inner * (1 + len(scales)), width)


def _gated(pixels: int, width: int) -> Work:
    """A gated MLP with a depthwise convolution inside, four times as wide."""
    hidden = 4 * width
    return (
        convolution(pixels, width, 2 * hidden, 1)
        + convolution(pixels, 2 * hidden, 2 * hidden, 3, groups=2 * hidden)
        + convolution(pixels, hidden, width, 1)
    )
