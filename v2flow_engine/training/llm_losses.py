"""What an LLM's training minimises: the loss of images, and how far its expectations of text have moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from v2flow_engine.training.captioned import Captioned
from v2flow_engine.training.split_rows import rows_from
from v2flow_engine.vocabulary import VisualVocabulary


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of logits (B, S, V) with tokens (B, S), or with probabilities (B, S, V), in nats per token."""
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(0, 1))


def image_logits(
    net: nn.Module,
    vocabulary: VisualVocabulary,
    data: Captioned,
    rows: torch.Tensor,
    variants: torch.Tensor,
    dropped: torch.Tensor,
    hidden_codes: torch.Tensor | None = None,
    all_rows: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, S + 1, V) of the visual tokens and image_end of pictures, and these tokens as places among them.

    Args:
        rows, variants: (B,) which pictures, and which of their wordings.
        dropped: (B, 1) bool, prompts that become null ids.
        hidden_codes: (B, S) bool, visual inputs that become null ids.
        all_rows: compare all rows of the head, not those of control and visual tokens alone.
    """
    prompts, lengths = data.prompt_ids[rows, variants].long(), data.lengths[rows, variants].long()
    prompts = prompts[:, : int(lengths.max())]
    prompts = torch.where(dropped, vocabulary.unconditional_ids(prompts), prompts)
    codes = data.codes[rows].long() + vocabulary.visual_offset
    end = torch.full_like(codes[:, :1], vocabulary.image_end_id)
    image = torch.cat([codes, end], dim=1)  # (B, S + 1)
    batch, longest = prompts.shape
    sequence = torch.full((batch, longest + image.shape[1]), vocabulary.null_id, device=codes.device)
    sequence[:, :longest] = prompts
    places = lengths[:, None] + torch.arange(image.shape[1], device=codes.device)
    shown = codes if hidden_codes is None else torch.where(hidden_codes, vocabulary.null_id, codes)
    sequence.scatter_(1, places, torch.cat([shown, end], dim=1))
    # Padding stands behind the image, where causal attention does not look.
    hidden = net.model(input_ids=sequence[:, :-1], use_cache=False).last_hidden_state
    hidden = hidden.gather(1, (places - 1)[..., None].expand(-1, -1, hidden.shape[-1]))
    first, head = vocabulary.text_vocab_size, net.get_output_embeddings()
    if all_rows:
        return head(hidden), image
    return F.linear(hidden, rows_from(head, first)), image - first


def text_divergence(
    net: nn.Module, known: nn.Module, before: Sequence[torch.Tensor], windows: torch.Tensor
) -> torch.Tensor:
    """How far what `net` expects of windows of text (B, L) is from what the LLM `known` does, in nats per token, (B,).

    It is the Kullback-Leibler divergence over all rows of `net`; rows that `known` lacks count as impossible.
    before: ids that stand before each window for `net` alone, such as an image's. A window's first token has no say,
    for `known` has nothing before it.
    """
    length = windows.shape[1]
    starts = torch.tensor([len(ids) for ids in before], device=windows.device)
    places = starts[:, None] + torch.arange(length, device=windows.device)
    # Padding stands behind the text, where causal attention does not look.
    sequence = pad_sequence([torch.cat(pair) for pair in zip(before, windows, strict=True)], batch_first=True)
    with torch.no_grad():
        expected = known(input_ids=windows[:, :-1], use_cache=False).logits.float().log_softmax(dim=-1)
    hidden = net.model(input_ids=sequence[:, :-1], use_cache=False).last_hidden_state
    hidden = hidden.gather(1, places[:, :-1, None].expand(-1, -1, hidden.shape[-1]))
    found = net.get_output_embeddings()(hidden).float().log_softmax(dim=-1)[..., : expected.shape[-1]]
    return (expected.exp() * (expected - found)).sum(dim=-1).mean(dim=1)
