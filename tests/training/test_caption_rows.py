"""Codes begin among the rows of the words that ask for them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from v2flow_engine.training.caption_rows import count_caption_words
from v2flow_engine.training.captioned import Captioned
from v2flow_engine.training.vocabulary_surgery import lay_out_vocabulary

VOCABULARY = lay_out_vocabulary(20, 0, 6, {"4x4": (1, 2)})
EVERYWHERE, APPLE, DOG, PUPPY, RARE = 5, 7, 9, 11, 13
FOR_ALL, FOR_APPLES, FOR_DOGS, UNUSED = 0, 2, 4, 5


def pictures(words: list[list[int]], codes: list[int], size: str = "4x4") -> Captioned:
    """One for each code; `words` are its wordings, in one or two words each."""
    tail, pad = [VOCABULARY.image_start_id, VOCABULARY.size_token_ids["4x4"]], VOCABULARY.null_id
    rows = [[VOCABULARY.bos_id, EVERYWHERE, *each, *tail] for each in words]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], dtype=torch.int32)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    n = len(codes)
    both = torch.tensor([[FOR_ALL, code] for code in codes], dtype=torch.int16)
    return Captioned(size, ids.expand(n, -1, -1), lengths.expand(n, -1), both)


def test_a_code_goes_the_way_of_the_words_that_ask_for_it() -> None:
    text = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    mean = text.mean(dim=0)
    data = [
        pictures([[APPLE], [APPLE]], [FOR_APPLES] * 40),
        pictures([[DOG], [PUPPY]], [FOR_DOGS] * 40),
        pictures([[APPLE], [APPLE, RARE]], [FOR_APPLES]),
    ]
    found = count_caption_words(data, VOCABULARY).directions(text, mean)
    rows = F.normalize(text - mean, dim=-1)
    assert found.shape == (6, 64)
    alike = found @ rows.T
    assert alike[FOR_APPLES].argmax() == APPLE and alike[FOR_APPLES, APPLE] > 0.9
    assert set(alike[FOR_DOGS].topk(2).indices.tolist()) == {DOG, PUPPY}
    assert not found[UNUSED].any() and not found[FOR_ALL].any()  # neither says anything of a word
    torch.testing.assert_close(found[[FOR_APPLES, FOR_DOGS]].norm(dim=-1), torch.ones(2))
