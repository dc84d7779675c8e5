"""Rotary embeddings where vLLM reads a config otherwise than transformers: the config is made to say the same to both.

Knows nothing of attention.
"""

from __future__ import annotations

import math
from typing import Any


def align_rope(config: Any) -> None:
    """Change `config.rope_parameters` in place so that vLLM computes what transformers does.

    longrope: transformers scales cos and sin by `attention_factor`, or by what follows from `factor`; vLLM knows only
    `short_mscale` and `long_mscale`, and else takes what follows from the two maximal lengths. LLaMA: transformers
    rotates whole heads, whatever `partial_rotary_factor` says.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if config.model_type == "llama":
        rope.pop("partial_rotary_factor", None)
    if rope.get("rope_type") != "longrope":
        return
    scale = rope.get("attention_factor")
    if scale is None and rope.get("factor") is not None:
        original = rope["original_max_position_embeddings"]
        scale = math.sqrt(1 + math.log(max(rope["factor"], 1.0)) / math.log(original))
    if scale is not None:
        rope["short_mscale"] = rope["long_mscale"] = scale
