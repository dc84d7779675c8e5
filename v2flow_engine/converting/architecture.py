"""The same LLM as a LLaMA or as a Phi-3: config and weights of one -> those of the other, exactly.

A Phi-3 is a LLaMA that stores q, k, v, and gate, up, as one weight each. What only one of the two can do (biases,
sliding windows, rotary embeddings) is refused. Dropout, which Phi-3's training has, is left out. Knows nothing of
files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from v2flow_engine.errors import ModelFolderError

FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
_PART_OF = {part: fused for fused, parts in FUSED.items() for part in parts}
_PROJECTION = re.compile(r"(model\.layers\.\d+\.)((?:self_attn|mlp)\.\w+)\.weight")
_OF_ONE_ONLY = {
    "llama": ("attention_bias", "mlp_bias", "pretraining_tp"),
    "phi3": ("resid_pdrop", "embd_pdrop", "sliding_window", "original_max_position_embeddings"),
}
Read = Callable[[str], torch.Tensor]


def translate_config(config: Mapping[str, Any], target: str, source: str) -> dict[str, Any]:
    """A LLaMA's or Phi-3's config.json -> that of the other, every default written out.

    Raises `ModelFolderError`, naming `source`, if the other architecture cannot compute the same.
    """
    origin = str(config["model_type"])
    full = _checked(dict(config), source)
    rope = dict(full.get("rope_parameters") or {})
    if problems := (_not_in_phi3 if target == "phi3" else _not_in_llama)(full, rope):
        raise ModelFolderError(f"{source}: cannot become {target}, which has no {', no '.join(problems)}")
    values = {key: value for key, value in full.items() if key not in _OF_ONE_ONLY[origin]}
    rope.pop("partial_rotary_factor", None)
    if target == "phi3" and rope.get("rope_type") == "longrope":
        # transformers' Phi-3 takes it from here, before what the rotary parameters say
        values["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    return _checked(values | {"model_type": target, "rope_parameters": rope}, source)


def _not_in_phi3(config: Mapping[str, Any], rope: Mapping[str, Any]) -> list[str]:
    problems = [key for key in ("attention_bias", "mlp_bias") if config.get(key)]
    kind = rope.get("rope_type", "default")
    return problems if kind in ("default", "longrope") else [*problems, f"rotary embedding {kind!r}"]


def _not_in_llama(config: Mapping[str, Any], rope: Mapping[str, Any]) -> list[str]:
    problems = []
    window, factor = config.get("sliding_window"), rope.get("partial_rotary_factor", 1.0)
    if window is not None and window < config["max_position_embeddings"]:
        problems.append(f"sliding window (sliding_window {window})")
    if factor != 1.0:
        problems.append(f"partial rotary embedding (partial_rotary_factor {factor})")
    return problems


def _checked(values: dict[str, Any], source: str) -> dict[str, Any]:
    """A config with all of its defaults, if transformers accepts it."""
    try:
        return AutoConfig.for_model(**values).to_diff_dict() | {"model_type": values["model_type"]}
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelFolderError(f"{source}: not a config of {values['model_type']} ({error})") from error


def translate_weights(
    names: Sequence[str], read: Read, target: str, config: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The weights that are made of these, under the target's names.

    A fused weight is made where its first part is named; `read` fetches the others. config: either's, for the heads.
    Raises `ModelFolderError` for a missing part or a weight of another shape.
    """
    made: dict[str, torch.Tensor] = {}
    for name in names:
        if name.endswith("rotary_emb.inv_freq"):  # of old checkpoints; computed today
            continue
        match = _PROJECTION.fullmatch(name)
        layer, projection = match.groups() if match else ("", "")
        if target == "phi3" and projection in _PART_OF:
            parts = FUSED[_PART_OF[projection]]
            if projection == parts[0]:
                weights = [read(f"{layer}{part}.weight") for part in parts]
                made[f"{layer}{_PART_OF[projection]}.weight"] = torch.cat(weights)
        elif target == "llama" and projection in FUSED:
            parts, rows = FUSED[projection], fused_rows(config)[projection]
            weight = read(name)
            if len(weight) != sum(rows):
                raise ModelFolderError(f"{name}: {len(weight)} rows, expected {sum(rows)} from the config")
            for part, piece in zip(parts, weight.split(rows), strict=True):
                made[f"{layer}{part}.weight"] = piece.clone()
        else:
            made[name] = read(name)
    return made


def fused_rows(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """How many rows of a fused weight belong to each of its parts."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return {
        "self_attn.qkv_proj": [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim],
        "mlp.gate_up_proj": [config["intermediate_size"]] * 2,
    }
