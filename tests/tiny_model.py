"""A complete tiny model folder with random weights: pictures of 64 x 64 from 16 visual tokens, in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderDC
from safetensors.torch import save_file

from tests.tiny_llm import build_tiny_llm
from v2flow_engine.config import GenerationDefaults, ModelConfig, VisualTokenizerConfig, save_json
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

SIZE = "64x64"


def tiny_tokenizer_config(
    text_vocab_size: int, code_dim: int = 64, codebook_size: int = 64
) -> VisualTokenizerConfig:
    """8 x 8 latents of 4 channels, 16 positions, 16 visual tokens."""
    return VisualTokenizerConfig(
        latent_grid=(8, 8),
        latent_channels=4,
        width=32,
        encoder_depth=1,
        decoder_depth=1,
        num_heads=2,
        velocity_depth=1,
        velocity_width=32,
        resampler_hidden=16,
        resampler_depth=1,
        resampler_mlp_depth=1,
        codebook_size=codebook_size,
        code_dim=code_dim,
        text_vocab_size=text_vocab_size,
        patch_size=2,
        downsample=2,
        readout_norm=True,
    )


def tiny_autoencoder(latent_channels: int = 4) -> AutoencoderDC:
    """8 pixels per latent."""
    stages = (8, 16, 16, 16)
    return AutoencoderDC(
        latent_channels=latent_channels,
        attention_head_dim=8,
        encoder_block_out_channels=stages,
        decoder_block_out_channels=stages,
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 1, 1, 1),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        scaling_factor=1.0,
    )


def build_tiny_model(directory: Path, seed: int = 0, grids: dict[str, list[int]] | None = None) -> Path:
    """Write the folder and return it. The same seed gives the same weights. grids: sizes besides `SIZE`."""
    directory = Path(directory)
    vocabulary = build_tiny_llm(directory / "llm", seed=seed, grids={SIZE: [4, 4], **(grids or {})})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = tiny_tokenizer_config(vocabulary.text_vocab_size)
        tokenizer = VisualTokenizer(config)
        for (
            parameter
        ) in tokenizer.velocity.parameters():  # zero-initialised parts would make every picture noise
            torch.nn.init.normal_(parameter, std=0.2)
        autoencoder = tiny_autoencoder()
    (directory / "visual_tokenizer").mkdir()
    save_file(tokenizer.state_dict(), str(directory / "visual_tokenizer" / "model.safetensors"))
    save_json(config, directory / "visual_tokenizer" / "config.json")
    autoencoder.save_pretrained(str(directory / "vae"))
    defaults = GenerationDefaults(rounds=2, flow_steps=3)
    save_json(ModelConfig("tiny", SIZE, defaults), directory / "config.json")
    return directory
