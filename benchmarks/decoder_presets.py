"""Models of the reference's sizes with random weights, for speed alone: what they draw is noise.

The autoencoder of a preset has no weights at all (it is on the meta device); only latents can be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.decoder_reference import reference_sampling
from v2flow_engine.config import VisualTokenizerConfig
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

STD = 0.02  # of the velocity net's weights, some of which training starts at zero
# DC-AE f32c32, the reference's; the numbers are those of its published diffusers folder.
DC_AE = {
    "latent_channels": 32,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "decoder_layers_per_block": [3] * 6,
    "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "scaling_factor": 0.41407,
}


@dataclass(frozen=True)
class Preset:
    """A size. grid: latents along one side, a visual token for each. velocity: (depth, width)."""

    grid: int
    channels: int
    width: int
    depth: int
    heads: int
    velocity: tuple[int, int]


PRESETS = {
    "small": Preset(16, 8, 256, 4, 8, (3, 256)),
    "base": Preset(32, 32, 768, 12, 12, (8, 1536)),
    "large": Preset(32, 32, 1024, 16, 16, (8, 1536)),
    "huge": Preset(32, 32, 1280, 20, 16, (8, 1536)),
}
ROUNDS = 4


def load_preset(name: str, device: str) -> tuple[VisualTokenizer, Autoencoder]:
    """Random weights, the same each time, in float32 on the device; and the autoencoder's shape."""
    preset = PRESETS[name]
    depth, width = preset.velocity
    config = VisualTokenizerConfig(
        latent_grid=(preset.grid, preset.grid),
        latent_channels=preset.channels,
        width=preset.width,
        encoder_depth=preset.depth,
        decoder_depth=preset.depth,
        num_heads=preset.heads,
        velocity_depth=depth,
        velocity_width=width,
        resampler_hidden=32,  # encoding is not measured
        resampler_depth=1,
        resampler_mlp_depth=1,
        codebook_size=16384,
        code_dim=preset.width,
        flow=reference_sampling(ROUNDS).flow(),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = VisualTokenizer(config)
        for parameter in tokenizer.velocity.parameters():
            torch.nn.init.normal_(parameter, std=STD)
    with torch.device("meta"):
        autoencoder = Autoencoder.from_config({**DC_AE, "latent_channels": preset.channels})
    return tokenizer.to(device).eval().requires_grad_(False), autoencoder.eval()
