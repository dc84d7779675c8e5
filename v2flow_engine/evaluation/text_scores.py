"""Windows of text ids, alone or behind a context -> how well an LLM predicts them; and two LLMs against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TextScores:
    """Means over the scored tokens of each window, (n,) float64.

    loss: cross-entropy in nats, the softmax over all of the LLM's rows, visual and control ones among them: what
        text generation with it sees.
    text_loss: the same with the softmax over its text rows alone.
    other_rows: the probability that rows other than text get.
    """

    loss: torch.Tensor
    text_loss: torch.Tensor
    other_rows: torch.Tensor

    @property
    def perplexity(self) -> float:
        """Of all scored tokens, over all rows."""
        return math.exp(self.loss.mean())


@torch.inference_mode()
def score(
    llm: PreTrainedModel,
    text_vocab_size: int,
    windows: torch.Tensor,
    contexts: Sequence[Sequence[int]] | None = None,
    batch: int = 8,
) -> TextScores:
    """Score windows (n, W) int64, all but the first token of each.

    Window i stands behind context i, taken in turn; without contexts, by itself. text_vocab_size: ids below it are
    text. Hidden states are those of a batch, logits (W - 1, vocabulary) those of one window at a time.
    """
    length, device = windows.shape[1], llm.device
    before = [torch.tensor(each, dtype=torch.int64) for each in contexts or [[]]]
    found = []
    for rows in torch.arange(len(windows)).split(batch):
        sequences = [torch.cat([before[i % len(before)], windows[i]]) for i in rows.tolist()]
        # Padding stands behind the text, where causal attention does not look.
        ids = pad_sequence(sequences, batch_first=True).to(device)
        hidden = llm.model(input_ids=ids, use_cache=False).last_hidden_state
        for sequence, states in zip(sequences, hidden, strict=True):
            last = len(sequence) - 1
            logits = llm.lm_head(states[last - length + 1 : last]).float()
            found.append(_score_window(logits, sequence[-length + 1 :].to(device), text_vocab_size))
    return TextScores(*torch.stack(found).T)


def _score_window(logits: torch.Tensor, targets: torch.Tensor, text_vocab_size: int) -> torch.Tensor:
    """Logits (T, V) and targets (T,) -> the means (3,) float64 of `TextScores`, on the CPU."""
    chosen = logits.gather(1, targets[:, None])[:, 0]
    everything, text = logits.logsumexp(-1), logits[:, :text_vocab_size].logsumexp(-1)
    other = -torch.expm1((text - everything).clamp_max(0))
    return torch.stack([everything - chosen, text - chosen, other]).double().mean(1).cpu()


def compare(scores: TextScores, base: TextScores) -> dict[str, float | None]:
    """How the perplexity of the same windows relates to a base's.

    ratio: 1.05 is 5 % worse. log_ratio_error: the standard error of its logarithm over windows, None for one window.
    text_rows_ratio: the softmax over text rows alone. other_rows: mean probability of all other rows.
    """
    apart = scores.loss - base.loss
    error = float(apart.std()) / math.sqrt(len(apart)) if len(apart) > 1 else None
    return {
        "perplexity": scores.perplexity,
        "ratio": math.exp(apart.mean()),
        "log_ratio_error": error,
        "text_rows_ratio": math.exp((scores.text_loss - base.text_loss).mean()),
        "other_rows": float(scores.other_rows.mean()),
    }
