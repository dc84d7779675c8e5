"""The LLMs and decoders that `v2flow plan` knows by name, as the shapes that their authors published.

Knows nothing of weights: none of them come with this package.
"""

from __future__ import annotations

from typing import Any

from v2flow_engine.config import FlowConfig, VisualTokenizerConfig
from v2flow_engine.planning.decoder_cost import DecoderShape

# The keys that decide the work, from each model's own config.json on the Hugging Face Hub.
LLMS: dict[str, dict[str, Any]] = {
    "llama-2-7b": {  # meta-llama/Llama-2-7b-hf
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    },
    "llama-3-8b": {  # meta-llama/Meta-Llama-3-8B
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
    },
    "phi-3-mini": {  # microsoft/Phi-3-mini-4k-instruct
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
    },
}

# mit-han-lab/dc-ae-f32c32-sana-1.0, the autoencoder of the reference: 32 pixels per latent, 32 channels.
F32C32: dict[str, Any] = {
    "latent_channels": 32,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "upsample_block_type": "interpolate",
}


def _reference(width: int, depth: int, heads: int) -> DecoderShape:
    """github.com/zhangguiwei610/V2Flow at its defaults: 1024 x 1024 pixels, 1,024 visual tokens, 1,024 positions.

    Sampled as its linear_flow is: 4 rounds of 20 steps of DPM-Solver++, guided against the null vector by 4.5.
    """
    tokenizer = VisualTokenizerConfig(
        latent_grid=(32, 32),
        latent_channels=32,
        width=width,
        encoder_depth=depth,
        decoder_depth=depth,
        num_heads=heads,
        velocity_depth=8,
        velocity_width=1536,
        resampler_hidden=512,
        resampler_depth=4,
        resampler_mlp_depth=1,
        codebook_size=16384,
        code_dim=width,
        flow=FlowConfig(unconditional="null_condition"),
    )
    return DecoderShape(
        tokenizer, F32C32, (32, 32), rounds=4, flow_steps=20, guidance=4.5, solver="dpm_solver_pp_2m"
    )


DECODERS: dict[str, DecoderShape] = {"base": _reference(768, 12, 12), "large": _reference(1024, 16, 16)}
