"""captions -> a BPE tokenizer for them, and captions -> padded prompt ids for training, beside pictures' codes.

Knows nothing of pixels; what a record says is turned into words by the emoji captions or is its own caption.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from v2flow_engine.errors import DataError
from v2flow_engine.training.captioned import Captioned
from v2flow_engine.training.coded import Coded
from v2flow_engine.training.emoji.captions import write_caption
from v2flow_engine.training.pictures import Pictures
from v2flow_engine.vocabulary import VisualVocabulary

BOS, PAD = "<s>", "<pad>"


def caption_of(record: dict[str, Any], rng: random.Random) -> str:
    """A caption of a record: freshly worded where its parts are known, else the one it carries.

    Raises `DataError` for a record without any.
    """
    if "label" not in record:
        if not record.get("caption"):
            raise DataError(
                f"a picture without a caption ({record.get('file_name', record)}): the LLM is trained on captions"
            )
        return record["caption"]
    fields = {key: record[key] for key in ("label", "tags", "style", "background", "count")}
    return write_caption(rng, **fields, wordings=record.get("wordings", ()))


def train_text_tokenizer(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """A lower-casing byte-level BPE of at most `vocab_size` ids; `<s>` is 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def prompt_ids(
    records: Sequence[dict[str, Any]],
    size: str,
    tokenizer: Tokenizer,
    vocabulary: VisualVocabulary,
    variants: int,
    max_text_tokens: int,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Several wordings of every record as prompt ids.

    Returns:
        ids (n, variants, L) int32, padded behind with null_id, and their lengths (n, variants) int32, where a row is
        `BOS text image_start size`. Raises `DataError` if a caption is longer than `max_text_tokens`.
    """
    rng = random.Random(seed)
    captions = [caption_of(record, rng) for record in records for _ in range(variants)]
    texts = [encoding.ids for encoding in tokenizer.encode_batch_fast(captions, add_special_tokens=False)]
    longest = max(len(ids) for ids in texts)
    if longest > max_text_tokens:
        raise DataError(
            f"a caption has {longest} tokens; the LLM's sequence leaves room for {max_text_tokens}"
        )
    tail = [vocabulary.image_start_id, vocabulary.size_token_ids[size]]
    padding = [vocabulary.null_id] * longest
    rows = [[vocabulary.bos_id, *text, *tail, *padding[len(text) :]] for text in texts]
    ids = torch.from_numpy(np.asarray(rows, dtype=np.int32))
    lengths = torch.tensor([len(text) + 3 for text in texts], dtype=torch.int32)
    return ids.unflatten(0, (len(records), variants)), lengths.unflatten(0, (len(records), variants))


def caption_pictures(
    pictures: Pictures | Coded,
    codes: torch.Tensor,
    tokenizer: Tokenizer,
    vocabulary: VisualVocabulary,
    variants: int,
    longest: int,
    seed: int,
) -> Captioned:
    """Pictures, as their codes (n, S), in several wordings each. longest: tokens of a sequence, image_end among them.

    Raises `DataError` for a caption that leaves no room for the image.
    """
    room = longest - codes.shape[1] - 3
    ids, lengths = prompt_ids(
        pictures.records, pictures.size, tokenizer, vocabulary, variants, room, seed + 1
    )
    return Captioned(pictures.size, ids, lengths, codes)
