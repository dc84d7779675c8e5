"""Tiny random LLMs in the shapes of known ones, written as real `llm/` folders, or as plain checkpoints.

Knows nothing of vLLM.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.tiny_llm import save_tokenizer, tiny_vocabulary, train_tiny_tokenizer
from v2flow_engine.training.vocabulary_surgery import write_llm_config
from v2flow_engine.vocabulary import VisualVocabulary

CODEBOOK_SIZE = 64
GRIDS = {"128x128": [8, 8], "64x64": [4, 4]}
_LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-2": {"model_type": "llama", "rms_norm_eps": 1e-5, "num_key_value_heads": 4},
    "llama-3": {
        "model_type": "llama",
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "llama-biases": {
        "model_type": "llama",
        "num_key_value_heads": 2,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "smollm2": {
        "model_type": "llama",
        "hidden_size": 96,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    },
    "phi-3-mini-4k": {"model_type": "phi3", "sliding_window": 40},
    "phi-3-mini-128k": {
        "model_type": "phi3",
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 128,
        "rope_parameters": _LONGROPE
        | {"short_factor": [1 + i / 16 for i in range(16)], "long_factor": [1 + 3 * i for i in range(16)]},
    },
    "phi-4-mini": {
        "model_type": "phi3",
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 128,
        "rope_parameters": _LONGROPE
        | {
            "partial_rotary_factor": 0.75,
            "attention_factor": 1.5,
            "short_factor": [1.0] * 12,
            "long_factor": [1.0 + i for i in range(12)],
        },
    },
}


def random_llm(vocab_size: int, seed: int = 0, **shape: Any) -> PreTrainedModel:
    """Two layers of width 128 where the shape does not say otherwise, in float32."""
    settings = {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "vocab_size": vocab_size,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    } | shape
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:  # wide, so that layers outweigh the last id itself
                gain = 0.5 if "embed_tokens" in name or "lm_head" in name else 1.5
                parameter.copy_(noise * gain * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.2 * noise)
    return model


def build_plain_llm(folder: Path, *, shard_size: str = "5GB", seed: int = 0, **shape: Any) -> int:
    """Write a checkpoint without visual tokens, as people publish them; returns its vocabulary's size."""
    tokenizer = train_tiny_tokenizer()
    vocab_size = tokenizer.get_vocab_size() + 5  # rows that the tokenizer has no tokens for, as in Phi-3
    random_llm(vocab_size, seed, **shape).save_pretrained(folder, max_shard_size=shard_size)
    save_tokenizer(tokenizer, folder)
    return vocab_size


def build_shaped_llm(folder: Path, name: str, seed: int = 0) -> VisualVocabulary:
    """Write an llm/ folder in one of SHAPES; returns its vocabulary."""
    folder.mkdir(parents=True)
    tokenizer = train_tiny_tokenizer()
    vocabulary = tiny_vocabulary(tokenizer.get_vocab_size(), CODEBOOK_SIZE, GRIDS)
    random_llm(vocabulary.visual_offset + CODEBOOK_SIZE, seed, **SHAPES[name]).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    write_llm_config(json.loads((folder / "config.json").read_text()), vocabulary, folder)
    return vocabulary
