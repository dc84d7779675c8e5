"""The choice of what to ask for: even, without repeats, of the right split, the same for the same seed."""

from collections import Counter

import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.evaluation.artwork import Artwork
from v2flow_engine.evaluation.depictions import choose_depictions
from v2flow_engine.training.emoji.splits import split_of


@pytest.mark.parametrize(
    ("split", "number"), [("train", 250), ("heldout_combination", 60), ("heldout_emoji", 40)]
)
def test_they_are_different_and_of_the_split(artwork: Artwork, split: str, number: int) -> None:
    chosen = choose_depictions(artwork, split, number, seed=3)
    assert len(set(chosen)) == number
    assert {split_of(each.hexcode, each.style, each.background, each.count) for each in chosen} == {split}


def test_styles_counts_and_backgrounds_are_even(artwork: Artwork) -> None:
    chosen = choose_depictions(artwork, "train", 250, seed=0)
    for field, values in (("style", 3), ("count", 4), ("background", 12)):
        numbers = Counter(getattr(each, field) for each in chosen)
        assert len(numbers) == values
        assert max(numbers.values()) - min(numbers.values()) <= 4


def test_the_seed_decides(artwork: Artwork) -> None:
    assert choose_depictions(artwork, "train", 20, seed=1) == choose_depictions(artwork, "train", 20, seed=1)
    assert choose_depictions(artwork, "train", 20, seed=1) != choose_depictions(artwork, "train", 20, seed=2)


def test_the_prompt_says_what_is_asked(artwork: Artwork) -> None:
    for each in choose_depictions(artwork, "train", 24, seed=0):
        words = ["", "a", "two", "three", "four"][each.count]
        assert each.prompt.startswith(f"{words} {each.style} thing")
        assert each.prompt.endswith(f"{each.background} background")


def test_too_many_are_refused(artwork: Artwork) -> None:
    with pytest.raises(DataError, match=r"heldout_emoji has \d+ pictures in all, asked for 100000"):
        choose_depictions(artwork, "heldout_emoji", 100_000, seed=0)
