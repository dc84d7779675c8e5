"""A GGUF file as the base of `v2flow convert llm`; run where the package gguf is installed, which is not required."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from tests.converting.test_extend import SIZE, extend, visual_tokenizer
from tests.shaped_llm import random_llm
from tests.tiny_llm import CAPTIONS, train_tiny_tokenizer

gguf = pytest.importorskip("gguf")
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path: Path, model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """As llama.cpp's converter does: q and k in the order of its own rotary embedding."""
    config, writer = model.config, gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    settings = json.loads(tokenizer.to_str())["model"]
    ids = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in ids])
    writer.add_token_types([3 if token == "<s>" else 1 for token, _ in ids])
    writer.add_token_merges([" ".join(merge) for merge in settings["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, weight in model.state_dict().items():
        weight = weight.half() if weight.ndim > 1 else weight
        parts = name.removesuffix(".weight").split(".", 3)
        if name.startswith("model.layers."):
            if parts[3] in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
                weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()
            target = f"blk.{parts[2]}.{NAMES[parts[3]]}.weight"
        else:
            target = {
                "model.embed_tokens": "token_embd.weight",
                "model.norm": "output_norm.weight",
                "lm_head": "output.weight",
            }[name.removesuffix(".weight")]
        writer.add_tensor(target, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_a_base_too(tmp_path: Path) -> None:
    tokenizer = train_tiny_tokenizer()
    model = random_llm(tokenizer.get_vocab_size(), model_type="llama", num_key_value_heads=2)
    write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    out = tmp_path / "out"
    assert extend(tmp_path / "tiny.gguf", visual_tokenizer(tmp_path / "v"), out, *SIZE) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny.gguf", "v"]
    extended = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode(CAPTIONS[0]).ids])
    with torch.inference_mode():
        was, now = model(ids).logits[0], extended(ids).logits[0, :, : tokenizer.get_vocab_size()]
    torch.testing.assert_close(now, was, rtol=1e-2, atol=1e-2)  # float16 in between
    written = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert written.token_to_id("<|image_start|>") == tokenizer.get_vocab_size()
    ids = written.encode(
        " a red apple", add_special_tokens=False
    ).ids  # GGUF has no space before a text's start
    assert ids == tokenizer.encode("a red apple").ids


def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    tokenizer = visual_tokenizer(tmp_path / "v")
    capsys.readouterr()
    assert extend(tmp_path / "bad.gguf", tokenizer, tmp_path / "out", *SIZE) == 2
    assert "transformers cannot read it" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.gguf", "v"]
