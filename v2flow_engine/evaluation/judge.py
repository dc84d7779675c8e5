"""Pictures and what was asked of each -> verdicts: is it that emoji, that background, that count?

The emoji is right if its own reference picture is nearer than that of any other emoji of the style (32 x 32
colour, mean removed, cosine), all of them composed on the background and in the arrangement that were asked
for, so that only identity differs. Look-alikes are not forgiven, and a tie is a miss. Background and count
are read without knowing what was asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from v2flow_engine.evaluation.artwork import Artwork
from v2flow_engine.evaluation.depictions import Depiction
from v2flow_engine.evaluation.readers import CountReader, read_backgrounds
from v2flow_engine.evaluation.references import ReferenceSet
from v2flow_engine.evaluation.thumbnails import thumbnails
from v2flow_engine.training.emoji.compose import PALETTE

# Two references that are the same picture may differ by this much in rounding.
_TIE = 1e-6


@dataclass(frozen=True)
class Verdict:
    """What a picture shows against what it should.

    rank: how many other emoji are as near as the right one or nearer; 0 is top-1, 0 to 4 top-5.
    nearest: hex code of the nearest. similarity: cosine to the right reference, -1..1.
    """

    asked: Depiction
    rank: int
    nearest: str
    similarity: float
    background: str
    count: int

    @property
    def background_right(self) -> bool:
        """The background is the one asked for."""
        return self.background == self.asked.background

    @property
    def count_right(self) -> bool:
        """There are as many copies as asked for."""
        return self.count == self.asked.count


class Judge:
    """Judges pictures against artwork. Keeps the references that it made, at most about 320 MB.

    Args:
        artwork: the emoji that a picture could show.
    """

    def __init__(self, artwork: Artwork) -> None:
        self.artwork = artwork
        self.count_reader = CountReader(artwork)
        self._reference_sets: dict[tuple[str, int], ReferenceSet] = {}

    def judge(self, pictures: Sequence[np.ndarray], asked: Sequence[Depiction]) -> list[Verdict]:
        """Pictures (H, H, 3) uint8 and what each should show -> a verdict each, in the same order."""
        if not pictures:
            return []
        thumbs = thumbnails(pictures)
        backgrounds, counts = read_backgrounds(thumbs), self.count_reader.read(thumbs)
        nearness = self._nearness(thumbs, asked)
        return [
            Verdict(each, *near, background, count)
            for each, near, background, count in zip(asked, nearness, backgrounds, counts, strict=True)
        ]

    def _nearness(self, thumbs: np.ndarray, asked: Sequence[Depiction]) -> list[tuple[int, str, float]]:
        """(rank, nearest hex code, similarity to the right one) for each."""
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        for index, each in enumerate(asked):
            groups[each.style, each.count].append(index)
        nearness: dict[int, tuple[int, str, float]] = {}
        for (style, count), indices in groups.items():
            references = self.references(style, count)
            rgb = np.array([PALETTE[asked[index].background] for index in indices])
            for index, row in zip(indices, references.similarity(thumbs[indices], rgb), strict=True):
                nearness[index] = place(row, references.hexcodes, asked[index].hexcode)
        return [nearness[index] for index in range(len(asked))]

    def references(self, style: str, count: int) -> ReferenceSet:
        """The references of a style with so many copies, made at the first call."""
        if (style, count) not in self._reference_sets:
            self._reference_sets[style, count] = ReferenceSet.build(self.artwork, style, count)
        return self._reference_sets[style, count]


def place(similarity: np.ndarray, hexcodes: list[str], right: str) -> tuple[int, str, float]:
    """(how many others are as near as the right one or nearer, nearest hex code, similarity to the right one).

    similarity: (E,) to the emoji of `hexcodes`, one of which is `right`.
    """
    own = similarity[hexcodes.index(right)]
    rank = int((similarity >= own - _TIE).sum()) - 1
    return rank, hexcodes[int(similarity.argmax())], float(own)
