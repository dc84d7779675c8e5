"""An LLM's embedding and head in two weights each: the text rows, which stay, and those behind them, which are trained.

One weight of both would get a gradient as large as itself, most of it zeros that are cleared, added up over processes
and stepped over by the optimizer. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class SplitRows(nn.Module):
    """A row for each id: `text` (V, D), frozen, and `rows` (R, D) of the ids from V on."""

    def __init__(self, text: nn.Parameter, rows: nn.Parameter) -> None:
        super().__init__()
        self.text, self.rows = text, rows


class SplitEmbedding(SplitRows):
    """ids (...) -> their rows (..., D), in the dtype of the trained ones."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        behind = ids - len(self.text)
        is_text = behind < 0
        found = F.embedding(torch.where(is_text, ids, 0), self.text).to(self.rows.dtype)
        return torch.where(is_text[..., None], found, F.embedding(behind.clamp_min(0), self.rows))


class SplitHead(SplitRows):
    """hidden (..., D) -> logits (..., V + R)."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.linear(hidden, self.text), F.linear(hidden, self.rows)], dim=-1)


def embedding_and_head(net: nn.Module, name: str = "weight") -> list[nn.Parameter]:
    """The parameters of that name, one where embedding and head of a transformers model are tied, else two."""
    pair = (getattr(net.get_input_embeddings(), name), getattr(net.get_output_embeddings(), name))
    return list({id(parameter): parameter for parameter in pair}.values())


def split_rows(net: nn.Module, text_rows: int, frozen_dtype: torch.dtype = torch.float32) -> None:
    """Split embedding and head of a transformers model, in place; tied ones stay tied. Its head must have no bias."""
    parts = {}
    for weight in embedding_and_head(net):
        text, rows = weight.detach().split([text_rows, len(weight) - text_rows])
        frozen = nn.Parameter(text.to(frozen_dtype, copy=True), requires_grad=False)
        parts[id(weight)] = (frozen, nn.Parameter(rows.clone()))
    embedding, head = net.get_input_embeddings(), net.get_output_embeddings()
    net.set_input_embeddings(SplitEmbedding(*parts[id(embedding.weight)]))
    net.set_output_embeddings(SplitHead(*parts[id(head.weight)]))


def trained_rows(net: nn.Module) -> list[nn.Parameter]:
    """The rows that are trained of a split model."""
    return embedding_and_head(net, "rows")


def rows_from(layer: nn.Module, first: int) -> torch.Tensor:
    """The rows from id `first` on, where the text ends, of an embedding or head, be it split or whole."""
    return layer.rows if isinstance(layer, SplitRows) else layer.weight[first:]


def joined(net: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of a split model as if it had never been split."""
    state = dict(state)
    for name, module in net.named_modules():
        if isinstance(module, SplitRows):
            text, rows = state.pop(f"{name}.text"), state.pop(f"{name}.rows")
            state[f"{name}.weight"] = torch.cat([text.to(rows.dtype), rows])
    return state
