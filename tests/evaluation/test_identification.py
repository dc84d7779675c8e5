"""A picture of an emoji is known in each style, on each background and in each size, though none was asked for."""

import dataclasses

import numpy as np
import pytest

from tests.evaluation.conftest import NUMBER, ask
from v2flow_engine.evaluation.artwork import Artwork
from v2flow_engine.evaluation.identification import identify
from v2flow_engine.evaluation.judge import Judge
from v2flow_engine.training.emoji.catalogue import STYLES
from v2flow_engine.training.emoji.compose import PALETTE, compose

NAMES = list(PALETTE)


@pytest.fixture(scope="module")
def judge(artwork: Artwork) -> Judge:
    """A judge over all of the artwork."""
    return Judge(artwork)


@pytest.mark.parametrize("size", ["128x128", "64x64", "256x256"])
@pytest.mark.parametrize("style", STYLES)
def test_references_are_first_in_each_style(judge: Judge, style: str, size: str) -> None:
    asked = [ask(index, style, NAMES[index % 12]) for index in range(NUMBER)]
    pictures = [
        compose(judge.artwork.sprites[each.hexcode, style], PALETTE[each.background], 1, size)
        for each in asked
    ]
    right = [each.hexcode for each in asked]
    found = identify(judge, pictures, right, set(right))
    assert [(each.rank, each.rank_of_all) for each in found] == [(0, 0)] * NUMBER
    assert [each.nearest for each in found] == right
    assert [each.background for each in found] == [each.background for each in asked]
    assert all(each.similarity > 0.99 for each in found)


def test_another_emoji_is_a_miss_and_only_candidates_count(judge: Judge) -> None:
    shown, right = ask(1), ask(0)
    picture = judge.artwork.picture(shown.hexcode, "cartoon", "pink", 1)
    among_all = identify(judge, [picture], [right.hexcode], {ask(index).hexcode for index in range(NUMBER)})[
        0
    ]
    assert (among_all.nearest, among_all.rank) == (shown.hexcode, among_all.rank_of_all)
    assert among_all.rank >= 1
    alone = identify(judge, [picture], [right.hexcode], {right.hexcode})[0]
    assert (alone.nearest, alone.rank, alone.rank_of_all) == (right.hexcode, 0, among_all.rank_of_all)


def test_an_emoji_that_a_style_lacks_is_known_by_the_others(artwork: Artwork) -> None:
    lacking = dataclasses.replace(artwork, sprites=dict(artwork.sprites))
    del lacking.sprites[ask(3).hexcode, "3d"]
    codes = [ask(3).hexcode, ask(4).hexcode]
    pictures = [lacking.picture(codes[0], "flat", "teal", 1), lacking.picture(codes[1], "3d", "teal", 1)]
    found = identify(Judge(lacking), pictures, codes, set(codes))
    assert [(each.rank, each.rank_of_all) for each in found] == [(0, 0), (0, 0)]


def test_a_plain_picture_shows_no_emoji(judge: Judge) -> None:
    plain = np.full((128, 128, 3), PALETTE["teal"], np.uint8)
    found = identify(judge, [plain], [ask(0).hexcode], {ask(0).hexcode, ask(1).hexcode})[0]
    assert (found.rank, found.rank_of_all, found.similarity) == (1, NUMBER - 1, 0.0)


def test_nothing_is_nothing(judge: Judge) -> None:
    assert identify(judge, [], [], set()) == []
