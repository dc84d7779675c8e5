"""The Phi-3 that writes visual tokens: architecture `V2FlowPhi3ForCausalLM`, model type `phi3`."""

from __future__ import annotations

from vllm.model_executor.models.phi3 import Phi3ForCausalLM

from v2flow_vllm.guided import GuidedCausalLM


class V2FlowPhi3ForCausalLM(GuidedCausalLM, Phi3ForCausalLM):
    """Phi-3 with visual tokens: to vLLM a LLaMA whose q, k, v and whose gate, up are stored as one weight each."""
