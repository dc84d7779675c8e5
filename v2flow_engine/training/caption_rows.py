"""Which words stand in the captions of a code's pictures -> where its visual row begins, among these words' rows.

A pretrained LLM knows what is like a word, and repeats what it has read: a code that begins near the words that ask for
it is expected behind them, and behind words that mean the same, before anything is learnt. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from v2flow_engine.training.captioned import Captioned
from v2flow_engine.vocabulary import VisualVocabulary

# Of a pair of word and code: what was seen so often counts half. Rare pairs are chance.
_HALF_AFTER = 5.0
_PICTURES_AT_ONCE = 2048


@dataclass(frozen=True)
class CaptionWords:
    """words (n,) int64: ids that captions have. weights (K, n) float32: how much more often than by chance each stands
    in the captions of a code's pictures (pointwise mutual information, where that is positive).
    """

    words: torch.Tensor
    weights: torch.Tensor

    def directions(self, text: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Unit vectors (K, D) in float32; of zeros for a code that no picture has.

        A code's is the weighted sum of its words' rows in `text` (V, D) without their `mean` (D,).
        """
        return F.normalize(self.weights @ (text[self.words].float() - mean), dim=-1)


def count_caption_words(data: Sequence[Captioned], vocabulary: VisualVocabulary) -> CaptionWords:
    """What captions say of codes, on the CPU: a word is in a caption of the picture, a code in the picture."""
    data = [each.to(torch.device("cpu")) for each in data]
    ids = torch.cat([each.prompt_ids[each.prompt_ids < vocabulary.text_vocab_size] for each in data])
    words = ids[ids != vocabulary.bos_id].unique().long()
    pairs = torch.zeros(vocabulary.codebook_size, len(words))
    of_codes, of_words, pictures = torch.zeros(vocabulary.codebook_size), torch.zeros(len(words)), 0
    for each in data:
        for part in torch.arange(len(each)).split(_PICTURES_AT_ONCE):
            has_code = _present(each.codes[part], torch.arange(vocabulary.codebook_size))
            # A word that only some of the wordings have counts by their share.
            variants = each.prompt_ids[part].unbind(dim=1)
            has_word = sum(_present(ids, words) for ids in variants) / len(variants)
            pairs += has_code.T @ has_word
            of_codes += has_code.sum(dim=0)
            of_words += has_word.sum(dim=0)
            pictures += len(part)
    expected = of_codes[:, None] * of_words / pictures
    information = (pairs / expected.clamp_min(1e-9)).clamp_min(1.0).log()
    return CaptionWords(words, information * pairs / (pairs + _HALF_AFTER))


def _present(ids: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """Whether each id of the sorted `of` is in a row of ids (n, L), as 0 or 1: (n, len(of)) float32."""
    ids = ids.long()
    place = torch.searchsorted(of, ids).clamp_max(len(of) - 1)
    found = (of[place] == ids).float()
    return torch.zeros(len(ids), len(of)).scatter_reduce_(1, place, found, "amax")
