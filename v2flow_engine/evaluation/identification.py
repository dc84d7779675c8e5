"""Pictures of which no style and no background was asked -> which emoji they show, and how near the right one comes.

The background is read; an emoji is as near as its most similar reference, one copy on that background, of any style.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from v2flow_engine.evaluation.judge import Judge, place
from v2flow_engine.evaluation.readers import read_backgrounds
from v2flow_engine.evaluation.thumbnails import thumbnails
from v2flow_engine.training.emoji.catalogue import STYLES
from v2flow_engine.training.emoji.compose import PALETTE


@dataclass(frozen=True)
class Identification:
    """What a picture shows against the emoji it should.

    rank: how many other candidates are as near as the right one or nearer; 0 is top-1, 0 to 4 top-5.
    rank_of_all: the same among all emoji of the artwork. nearest: hex code of the nearest candidate.
    similarity: cosine to the right one, -1..1. background: as it was read, a name of the palette.
    """

    hexcode: str
    rank: int
    rank_of_all: int
    nearest: str
    similarity: float
    background: str


def identify(
    judge: Judge, pictures: Sequence[np.ndarray], right: Sequence[str], candidates: Collection[str]
) -> list[Identification]:
    """Pictures (H, H, 3) uint8 of any size, and the hex code that each should show -> one each, in the same order.

    candidates: hex codes of the emoji that a picture may show, those of `right` among them.
    """
    if not pictures:
        return []
    thumbs = thumbnails(pictures)
    backgrounds = read_backgrounds(thumbs)
    hexcodes, similarity = nearness_in_any_style(judge, thumbs, backgrounds)
    chosen = [index for index, hexcode in enumerate(hexcodes) if hexcode in candidates]
    chosen_hexcodes = [hexcodes[index] for index in chosen]
    found = []
    for row, hexcode, background in zip(similarity, right, backgrounds, strict=True):
        rank, nearest, own = place(row[chosen], chosen_hexcodes, hexcode)
        found.append(
            Identification(hexcode, rank, place(row, hexcodes, hexcode)[0], nearest, own, background)
        )
    return found


def nearness_in_any_style(
    judge: Judge, thumbs: np.ndarray, backgrounds: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """The artwork's hex codes, sorted, and (B, E): the similarity to each in the style where it is greatest.

    thumbs: (B, 32, 32, 3). backgrounds: a name of the palette for each.
    """
    hexcodes = sorted({hexcode for hexcode, _ in judge.artwork.sprites})
    column = {hexcode: index for index, hexcode in enumerate(hexcodes)}
    rgb = np.array([PALETTE[name] for name in backgrounds])
    nearness = np.full((len(thumbs), len(hexcodes)), -np.inf)
    for style in STYLES:
        references = judge.references(style, 1)
        if not references.hexcodes:
            continue
        columns = [column[hexcode] for hexcode in references.hexcodes]
        nearness[:, columns] = np.maximum(nearness[:, columns], references.similarity(thumbs, rgb))
    return hexcodes, nearness
