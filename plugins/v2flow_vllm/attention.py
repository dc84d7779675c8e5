"""LLaMA's attention for two streams in one pass: shared weights, one KV cache per stream.

The first half of the rows is the conditional stream, the second the unconditional one.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.models.llama import LlamaAttention


class GuidedLlamaAttention(LlamaAttention):
    """`LlamaAttention` with a second `Attention` module, whose cache lies under the same block table."""

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
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q, k = self.rotary_emb(positions, q, k)
        half = q.shape[0] // 2
        cond = self.attn(q[:half], k[:half], v[:half])
        uncond = self.attn_uncond(q[half:], k[half:], v[half:])
        output, _ = self.o_proj(torch.cat((cond, uncond)))
        return output
