"""The embedded adapters to SmolLM2: small enough, described, and fit for a base of its shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny_llm import save_tokenizer, train_tiny_tokenizer
from v2flow_engine.adapted_model import ADAPTERS, ROWS, Recipe, adapter_products, merge
from v2flow_engine.checkpoint import ASSETS, embedded_models, load_weights, open_tokenizer

MODEL = ASSETS / "v2flow-emoji-smollm2"
TEXT_ROWS = 49_152
SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
    "vocab_size": TEXT_ROWS,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


def test_it_is_adapters_and_a_visual_tokenizer_in_bfloat16() -> None:
    assert MODEL.name in embedded_models()
    files = sorted(MODEL.rglob("*.safetensors"))
    assert {path.parent.name for path in files} == {ADAPTERS, "visual_tokenizer"}
    for path in files:
        assert {value.dtype for value in load_weights(path).values()} == {torch.bfloat16}, path
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 24 * 2**20


def test_the_card_says_where_it_comes_from() -> None:
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    for word in ("SmolLM2", "Apache-2.0", "MIT", "v2flow train llm", "seed", "unseen words", "perplexity"):
        assert word in card, word


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain LLM of SmolLM2's shape with random weights: the real one is a download of 93 MB."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SHAPE)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    save_tokenizer(train_tiny_tokenizer(), folder)
    return folder


def test_it_fits_the_base(base: Path, tmp_path: Path) -> None:
    """Each projection moves along its adapter, text rows stay, visual rows are the trained ones."""
    recipe = Recipe(**json.loads((MODEL / "recipe.json").read_text()))
    merge(MODEL, base, ASSETS / recipe.vae / "vae", tmp_path, recipe)
    before, after = (load_weights(path / "model.safetensors") for path in (base, tmp_path / "llm"))
    products, rows = adapter_products(MODEL / ADAPTERS), load_weights(MODEL / ADAPTERS / ROWS)
    embedding = "model.embed_tokens.weight"
    assert torch.equal(after[embedding][:TEXT_ROWS], before[embedding])
    assert torch.equal(after[embedding][TEXT_ROWS:], rows[embedding])
    assert products.keys() == {name for name in before if name.endswith("_proj.weight")}
    for name, product in products.items():
        moved = (after[name].double() - before[name].double()).flatten()
        assert torch.cosine_similarity(moved, product.flatten(), dim=0) > 0.9, name
    folder = open_tokenizer(tmp_path)
    assert folder.config.default_size in folder.grids
