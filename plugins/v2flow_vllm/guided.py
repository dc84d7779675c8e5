"""An LLM of LLaMA's build that writes visual tokens under guidance: token ids -> guided visual logits.

A request is one row to vLLM; here it is two, conditional and unconditional, that pass through the same
weights together and can therefore never be scheduled apart. The architectures that vLLM makes from its LLaMA
get this by inheritance (`llama.py`, `phi3.py`). Knows nothing of sampling.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from vllm.distributed import get_pp_group, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.model_executor.models.llama import LlamaForCausalLM

from v2flow_vllm.rope import align_rope
from v2flow_vllm.scales import row_scales
from v2flow_vllm.streams import GuidedLlamaModel, each_stream, vocabulary_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class GuidedCausalLM(LlamaForCausalLM):
    """vLLM's LLaMA with visual tokens; guided unless the config says `v2flow_guided: false`.

    Guided hidden states leave `forward` as (N, 2D), conditional | unconditional, and (N, D) otherwise.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        self._check(vllm_config)
        align_rope(config)
        guided = bool(getattr(config, "v2flow_guided", True))
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.guided = guided
        self.vocabulary = vocabulary_of(config)
        self.scales = row_scales(vllm_config) if guided else None
        self.logit_scale = float(getattr(config, "logit_scale", 1.0))
        self.adapted = vllm_config.lora_config is not None

    @staticmethod
    def _check(vllm_config: VllmConfig) -> None:
        if get_pp_group().world_size > 1:
            raise ValueError("pipeline parallelism is not supported with visual tokens")
        if vllm_config.speculative_config is not None:
            raise ValueError("speculative decoding is not supported with visual tokens")

    def _init_model(self, vllm_config: VllmConfig, prefix: str = "", **kwargs: Any) -> torch.nn.Module:
        """The layers, of one stream or two."""
        if getattr(vllm_config.model_config.hf_config, "v2flow_guided", True):
            return GuidedLlamaModel(vllm_config=vllm_config, prefix=prefix)
        return super()._init_model(vllm_config, prefix, **kwargs)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids (N,) -> hidden states, (N, 2D) when guided and (N, D) otherwise."""
        if self.guided and input_ids is None:
            raise ValueError("a guided model needs token ids, not prompt embeddings")
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """hidden_states (R, 2D) or (R, D) -> float32 logits (R, V): guided visual rows, -inf elsewhere."""
        if not self.guided:
            visual = self._visual_logits(hidden_states)
        else:
            both = torch.cat(hidden_states.chunk(2, dim=-1))
            cond, uncond = each_stream(self._visual_logits, both, self.adapted).chunk(2)
            # lerp gives exactly cond at a scale of 1 and exactly uncond at 0
            visual = torch.lerp(uncond, cond, self.scales.first(len(cond)))
        first = self.vocabulary.visual_offset
        logits = visual.new_full((len(visual), self.config.vocab_size), -torch.inf)
        logits[:, first : first + self.vocabulary.codebook_size] = visual
        return logits

    def _visual_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(R, D) -> float32 (R, K), the head's visual rows alone where its weight is plain and whole."""
        first = self.vocabulary.visual_offset
        last = first + self.vocabulary.codebook_size
        if self._head_is_plain():
            return F.linear(hidden_states, self.lm_head.weight[first:last]).float() * self.logit_scale
        return self.logits_processor(self.lm_head, hidden_states)[:, first:last].float()

    def _head_is_plain(self) -> bool:
        """Neither an adapter's, nor quantised, nor in pieces."""
        if self.adapted or get_tensor_model_parallel_world_size() > 1:
            return False
        return isinstance(self.lm_head.quant_method, UnquantizedEmbeddingMethod)

    def compute_logits_local(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Sharded sampling would need a row's logits in pieces; guidance and the mask need them whole."""
        raise NotImplementedError("batch-sharded sampling is not supported with visual tokens")

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load a plain checkpoint: both streams share every weight, so nothing is renamed or added."""
        return super().load_weights(weights)

    def get_model_state_cls(self) -> type:
        """What the V2 model runner keeps beside the model."""
        from v2flow_vllm.model_state import DefaultModelState, GuidedModelState

        return GuidedModelState if self.guided else DefaultModelState
