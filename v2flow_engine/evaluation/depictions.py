"""The catalogue -> a choice of what to ask for: emoji, style, background and count, evenly spread.

Does not know how pictures are made or judged.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from v2flow_engine.errors import DataError
from v2flow_engine.evaluation.artwork import Artwork
from v2flow_engine.training.emoji.captions import canonical_caption
from v2flow_engine.training.emoji.catalogue import STYLES, Emoji, select
from v2flow_engine.training.emoji.compose import COUNTS, PALETTE
from v2flow_engine.training.emoji.splits import split_of


@dataclass(frozen=True)
class Depiction:
    """What a picture is asked to show. `background` is a name of the palette; `split` where it belongs."""

    hexcode: str
    label: str
    style: str
    background: str
    count: int
    split: str

    @property
    def prompt(self) -> str:
        """The one full caption of it."""
        return canonical_caption(self.label, self.style, self.background, self.count)


def choose_depictions(
    artwork: Artwork,
    split: str,
    number: int,
    seed: int,
    labels: Sequence[str] | None = None,
    counts: Sequence[int] = COUNTS,
) -> list[Depiction]:
    """`number` different depictions of a split, drawn by `seed`, of the emoji with these labels (None: of all).

    Every twelve that follow one another have all pairs of style and count and all backgrounds, as far as the
    split has them. Raises `DataError` if the split has fewer.
    """
    if number < 0:
        raise DataError(f"cannot choose {number} pictures; expected 0 or more")
    rng = random.Random(f"{seed}|{split}")
    emoji = artwork.emoji if labels is None else select(artwork.emoji, labels)
    drawn = {style: [e for e in emoji if (e.hexcode, style) in artwork.sprites] for style in STYLES}
    left: dict[tuple[str, str, int], list[Depiction]] = {}
    chosen: list[Depiction] = []
    exhausted: set[tuple[str, str, int]] = set()
    cells = list(_even_cells(rng, counts))
    while len(chosen) < number and len(exhausted) < len(cells):
        for cell in cells:
            if cell not in left:
                left[cell] = _members(drawn[cell[0]], split, *cell)
                rng.shuffle(left[cell])
            if not left[cell]:
                exhausted.add(cell)
            elif len(chosen) < number:
                chosen.append(left[cell].pop())
    if len(chosen) < number:
        raise DataError(f"the split {split} has {len(chosen)} pictures in all, asked for {number}")
    return chosen


def _members(emoji: list[Emoji], split: str, style: str, background: str, count: int) -> list[Depiction]:
    return [
        Depiction(each.hexcode, each.label, style, background, count, split)
        for each in emoji
        if split_of(each.hexcode, style, background, count) == split
    ]


def _even_cells(rng: random.Random, counts: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    """All (style, background, count), ordered in blocks with every pair (style, count) once."""
    pairs = [(style, count) for style in STYLES for count in counts]
    backgrounds = list(PALETTE)
    rng.shuffle(pairs)
    rng.shuffle(backgrounds)
    for block in range(len(backgrounds)):
        for place, (style, count) in enumerate(pairs):
            yield style, backgrounds[(block + place) % len(backgrounds)], count
