"""llm/config.json: the architectures that can write visual tokens, and how long their sequences may be.

Knows nothing of torch, transformers or vLLM.
"""

from __future__ import annotations

from typing import Any

from v2flow_engine.errors import ModelFolderError

ARCHITECTURES = {"llama": "V2FlowLlamaForCausalLM", "phi3": "V2FlowPhi3ForCausalLM"}
"""model_type of the base LLM -> the architecture that vLLM runs it as."""

BESIDE_TOKENIZER = ("special_tokens_map.json", "chat_template.jinja")
"""What a checkpoint may have beside tokenizer.json and tokenizer_config.json that belongs to its text tokenizer."""


def longest_sequence(llm_config: dict[str, Any], source: str = "llm/config.json") -> int:
    """The most tokens of a sequence, prompt and image together.

    With longrope that is the length before it was extended: beyond it every rotary frequency is another one, so that
    an engine has to choose for all of its requests, and a picture does not need it. Raises `ModelFolderError`.
    """
    length = llm_config.get("max_position_embeddings")
    rope = llm_config.get("rope_parameters") or llm_config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type")
    # "su" and, in Phi-3's configs, "yarn" are earlier names of longrope
    if kind in ("longrope", "su") or (kind == "yarn" and llm_config.get("model_type") == "phi3"):
        inside = rope.get("original_max_position_embeddings")
        length = llm_config.get("original_max_position_embeddings") or inside or length
    if not isinstance(length, int):
        raise ModelFolderError(f"{source}: max_position_embeddings must be a whole number, got {length!r}")
    return length
