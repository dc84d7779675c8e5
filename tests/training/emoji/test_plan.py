"""Which pictures are made."""

import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.training.emoji.catalogue import Emoji
from v2flow_engine.training.emoji.compose import PALETTE
from v2flow_engine.training.emoji.plan import Plan, plan_all, plan_random
from v2flow_engine.training.emoji.splits import SPLITS, split_of

CATALOGUE = [Emoji(f"1F{n:03X}", f"emoji {n}", (), ("flat", "3d", "cartoon")) for n in range(0x300, 0x3A0)]


def assert_splits_hold(plan: Plan) -> None:
    for split, pictures in plan.items():
        for each in pictures:
            assert split_of(each.emoji.hexcode, each.style, each.background_name, each.count) == split


def test_all_combinations_are_there_once() -> None:
    plan = plan_all(CATALOGUE)
    pictures = [picture for each in plan.values() for picture in each]
    assert len(pictures) == len(set(pictures)) == len(CATALOGUE) * 3 * 12 * 4
    assert_splits_hold(plan)


@pytest.mark.parametrize("background", ["palette", "random", "blue"])
def test_random_plans(background: str) -> None:
    plan = plan_random(CATALOGUE, 500, background, seed=1)
    assert {split: len(plan[split]) for split in SPLITS} == {
        "train": 480,
        "heldout_combination": 10,
        "heldout_emoji": 10,
    }
    assert_splits_hold(plan)
    assert plan == plan_random(CATALOGUE, 500, background, seed=1)
    assert plan != plan_random(CATALOGUE, 500, background, seed=2)
    colours = {picture.background_rgb for picture in plan["train"]}
    if background == "blue":
        assert colours == {PALETTE["blue"]}
    elif background == "palette":
        assert colours == set(PALETTE.values())
        assert len(set(plan["train"])) == 480
    else:
        assert len(colours) > 450
        names = {picture.background_name for picture in plan["train"]}
        assert None in names and len(names) > 5


def test_more_pictures_than_combinations_are_refused() -> None:
    with pytest.raises(DataError, match="different ones"):
        plan_random(CATALOGUE, 100_000, "palette", seed=0)


def test_a_catalogue_without_held_out_emoji_is_refused_not_waited_for() -> None:
    seen = [emoji for emoji in CATALOGUE if split_of(emoji.hexcode, "flat", None, 1) == "train"]
    with pytest.raises(DataError, match="none for the split heldout_emoji"):
        plan_random(seen, 100, "random", seed=0)
