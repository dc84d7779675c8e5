"""What a picture shows -> the split it belongs to. Fixed for ever by a hash, whatever the seed or the run.

`heldout_emoji`: emoji never seen in the style "flat" (but in others). `heldout_combination`: one combination
of style, colour and count of an emoji otherwise seen. Does not know pictures or shards.
"""

import hashlib

SPLITS: tuple[str, ...] = ("train", "heldout_combination", "heldout_emoji")

HELDOUT_STYLE = "flat"
HELDOUT_EMOJI_SHARE = 0.04
HELDOUT_COMBINATION_SHARE = 0.05


def split_of(hexcode: str, style: str, background_name: str | None, count: int) -> str:
    """The split of a picture; a background without a name (None) is never a held-out combination."""
    if style == HELDOUT_STYLE and _share("emoji", hexcode) < HELDOUT_EMOJI_SHARE:
        return "heldout_emoji"
    if background_name is None:
        return "train"
    share = _share("combination", hexcode, style, background_name, count)
    return "heldout_combination" if share < HELDOUT_COMBINATION_SHARE else "train"


def _share(*parts: str | int) -> float:
    """A number in [0, 1) that depends on the parts alone, spread evenly."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
