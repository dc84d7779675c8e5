"""LLaMA's layers for two streams at once: token ids -> hidden states, conditional | unconditional.

Inside, the first half of the rows is the conditional stream, the second the unconditional one. Both pass through
each weight together, and each has a KV cache of its own under the same block table. vLLM sees one row per token
at either end, so that what it compiles, captures and schedules keeps the shapes that it knows. Knows nothing of
logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaModel

from v2flow_engine.vocabulary import VisualVocabulary

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class GuidedLlamaAttention(LlamaAttention):
    """`LlamaAttention` with a second `Attention` module, whose cache lies under the same block table."""

    apart = False  # see GuidedLlamaDecoderLayer

    def __init__(self, *args: Any, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(*args, prefix=prefix, **kwargs)
        self.attn_uncond = type(self.attn)(
            self.num_heads,
            self.head_dim,
            self.scaling,
            num_kv_heads=self.num_kv_heads,
            cache_config=kwargs.get("cache_config"),
            quant_config=kwargs.get("quant_config"),
            per_layer_sliding_window=self.attn.sliding_window,
            attn_type=self.attn.attn_type,
            prefix=f"{prefix}.attn_uncond",
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """(2N, D) -> (2N, D); `positions` (2N,)."""
        qkv = each_stream(lambda rows: self.qkv_proj(rows)[0], hidden_states, self.apart)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q, k = self.rotary_emb(positions, q, k)
        half = q.shape[0] // 2
        cond = self.attn(q[:half], k[:half], v[:half])
        uncond = self.attn_uncond(q[half:], k[half:], v[half:])
        return each_stream(lambda rows: self.o_proj(rows)[0], torch.cat((cond, uncond)), self.apart)


class GuidedLlamaDecoderLayer(LlamaDecoderLayer):
    """`LlamaDecoderLayer` on both streams' rows.

    With LoRA the streams pass through the weights one after the other: vLLM notes the adapter of N rows, not of 2N.
    """

    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, attn_layer_type=GuidedLlamaAttention)
        self.apart = self.self_attn.apart = vllm_config.lora_config is not None

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(2N, D) -> (2N, D), and the residual stream (2N, D) without it."""
        if not self.apart:
            return super().forward(positions, hidden_states, residual)
        if residual is None:
            hidden_states, residual = self.input_layernorm(hidden_states), hidden_states
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return each_stream(self.mlp, hidden_states, apart=True), residual


class GuidedLlamaModel(LlamaModel):
    """`LlamaModel` that reads a row twice, as it is and without its prompt."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=GuidedLlamaDecoderLayer)
        self.vocabulary = vocabulary_of(vllm_config.model_config.hf_config)
        self.apart = vllm_config.lora_config is not None

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids (N,), positions (N,) -> hidden states (N, 2D), so that vLLM can pick rows."""
        # the vocabulary's `unconditional_ids`, without the copy of a scalar that a CUDA graph cannot record
        nulled = input_ids.masked_fill(self.vocabulary.is_text(input_ids), self.vocabulary.null_id)
        positions = torch.cat((positions, positions))  # (2N,)
        hidden_states = each_stream(self.embed_tokens, torch.cat((input_ids, nulled)), self.apart)  # (2N, D)
        residual = None
        for layer in self.layers:
            hidden_states, residual = layer(positions, hidden_states, residual)
        hidden_states, _ = self.norm(hidden_states, residual)
        return torch.cat(hidden_states.chunk(2), dim=-1)


def each_stream(
    function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, apart: bool
) -> torch.Tensor:
    """A row-wise function of both streams' rows (2N, ...): in one call, or `apart` in one for each stream."""
    if not apart:
        return function(rows)
    return torch.cat([function(stream) for stream in rows.chunk(2)])


def vocabulary_of(config: Any) -> VisualVocabulary:
    """The visual vocabulary in a transformers config."""
    return VisualVocabulary.from_llm_config({"v2flow": dict(config.v2flow), "vocab_size": config.vocab_size})
