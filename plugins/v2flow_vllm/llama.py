"""The LLaMA that writes visual tokens: architecture `V2FlowLlamaForCausalLM`, model type `llama`."""

from __future__ import annotations

from v2flow_vllm.guided import GuidedCausalLM


class V2FlowLlamaForCausalLM(GuidedCausalLM):
    """LLaMA with visual tokens; see `GuidedCausalLM`."""
