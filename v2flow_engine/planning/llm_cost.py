"""An HF config.json of a LLaMA or Phi-3 -> operations, weights and KV cache of writing visual tokens.

Knows nothing of hardware: `stages.py` turns these counts into seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from v2flow_engine.errors import ModelFolderError
from v2flow_engine.llm_config import ARCHITECTURES
from v2flow_engine.planning.work import Work, attention, linear


@dataclass(frozen=True)
class LlmShape:
    """The shape of a LLaMA or Phi-3. head_rows: of the LM head that are computed, the visual tokens'."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab_size: int
    head_rows: int
    tied: bool

    @classmethod
    def from_config(
        cls, config: dict[str, Any], codebook_size: int | None = None, source: str = "config.json"
    ) -> LlmShape:
        """Read the shape.

        Args:
            codebook_size: visual tokens to add to a plain LLM; one that has them in its config ignores it.

        Raises `ModelFolderError` for another model type, or a key that is missing.
        """
        if config.get("model_type") not in ARCHITECTURES:
            raise ModelFolderError(
                f"{source}: model_type {config.get('model_type')!r} can't be planned with; known are "
                f"{', '.join(sorted(ARCHITECTURES))}"
            )
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            vocab_size = int(config["vocab_size"])
            visual = config.get("v2flow")
            head_rows = int(visual["codebook_size"]) if visual else codebook_size or 0
            return cls(
                layers=int(config["num_hidden_layers"]),
                hidden=hidden,
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                intermediate=int(config["intermediate_size"]),
                vocab_size=vocab_size if visual else vocab_size + head_rows,
                head_rows=head_rows,
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFolderError(f"{source}: not the config of an LLM ({error!r})") from error

    @property
    def parameters(self) -> int:
        """Numbers in all matrices; norms and biases are left out."""
        matrices = self.layers * int(self._layer(1, 0).weights)
        return matrices + self.vocab_size * self.hidden * (1 if self.tied else 2)

    @property
    def parameters_read(self) -> int:
        """Of these, what every step reads: the layers, and the rows of the head that belong to visual tokens."""
        return self.layers * int(self._layer(1, 0).weights) + self.head_rows * self.hidden

    @property
    def kv_numbers(self) -> int:
        """Numbers that a token leaves in the KV cache of one stream."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def step(self, context: float) -> float:
        """Operations of writing one token in one stream, which sees `context` tokens, itself included."""
        return self.layers * self._layer(1, context).flops + linear(1, self.hidden, self.head_rows).flops

    def prefill(self, tokens: int) -> float:
        """Operations of reading a prompt in one stream and writing the first token behind it.

        Each token sees those before it, half of the square on average.
        """
        layers = self.layers * self._layer(tokens, (tokens + 1) / 2).flops
        return layers + linear(1, self.hidden, self.head_rows).flops

    def _layer(self, rows: int, context: float) -> Work:
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            linear(rows, self.hidden, query + 2 * key_value)
            + attention(rows, context, query)
            + linear(rows, query, self.hidden)
            + linear(rows, self.hidden, 2 * self.intermediate)
            + linear(rows, self.intermediate, self.hidden)
        )
