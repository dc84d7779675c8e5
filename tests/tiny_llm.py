"""A tiny random LLaMA with visual tokens, written as a real `llm/` folder for the tests.

Ids: text (BPE of a few captions) | image_start, image_end, null, a size id for each size | visual.
Knows nothing of vLLM.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM

from v2flow_engine.config import to_dict
from v2flow_engine.vocabulary import VisualVocabulary

BOS = "<s>"
CAPTIONS = (
    "a red apple on a white background",
    "two green frogs in the style of a flat icon",
    "three yellow stars, 3d, on a dark blue background",
    "a cartoon whale spouting water, purple background",
    "a slice of pizza with cheese and olives, flat style",
    "four grey elephants, cartoon, orange background",
)


def train_tiny_tokenizer(vocab_size: int = 300) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` ids, trained on CAPTIONS; id 0 is BOS."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = PreTokenizers([ByteLevel(add_prefix_space=True)])
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write it as transformers and vLLM read it."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def tiny_vocabulary(
    text_vocab_size: int, codebook_size: int, grids: dict[str, list[int]]
) -> VisualVocabulary:
    """The ids of the control and visual tokens behind `text_vocab_size` text ids."""
    first = text_vocab_size
    size_token_ids = {size: first + 3 + i for i, size in enumerate(grids)}
    return VisualVocabulary(
        text_vocab_size=text_vocab_size,
        bos_id=0,
        image_start_id=first,
        image_end_id=first + 1,
        null_id=first + 2,
        visual_offset=first + 3 + len(grids),
        codebook_size=codebook_size,
        grids=grids,
        size_token_ids=size_token_ids,
    )


def build_tiny_llm(
    directory: Path,
    *,
    seed: int = 0,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    codebook_size: int = 64,
    grids: dict[str, list[int]] | None = None,
    max_position_embeddings: int = 128,
    tie: bool = True,
) -> VisualVocabulary:
    """Write config.json, model.safetensors and tokenizer files of a random LLaMA into `directory`.

    The weights are wide enough that greedy continuations wander instead of repeating one id. The default
    grids are 4 x 4 tokens for "64x64" and 2 x 2 for "32x32". Returns the folder's vocabulary.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tiny_tokenizer()
    vocabulary = tiny_vocabulary(
        tokenizer.get_vocab_size(), codebook_size, grids or {"64x64": [4, 4], "32x32": [2, 2]}
    )
    config = LlamaConfig(
        vocab_size=vocabulary.visual_offset + codebook_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=tie,
        bos_token_id=vocabulary.bos_id,
        eos_token_id=vocabulary.image_end_id,
    )
    _random_llama(config, seed).save_pretrained(directory)
    save_tokenizer(tokenizer, directory)
    _add_visual_block(directory / "config.json", vocabulary)
    return vocabulary


def _random_llama(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """LLaMA with seeded normal weights: matrices of gain 1.5, so that layers outweigh the last id itself."""
    model = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            gain = 0.5 if "embed_tokens" in name or "lm_head" in name else 1.5
            std = gain * parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


def _add_visual_block(path: Path, vocabulary: VisualVocabulary) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config["architectures"] = ["V2FlowLlamaForCausalLM"]
    config["v2flow"] = to_dict(vocabulary)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
