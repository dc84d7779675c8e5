"""Splits never move, and have the shares that they should."""

from collections import Counter

from v2flow_engine.training.emoji.splits import split_of

CODES = [f"1F{number:03X}" for number in range(0x1000)][:2000]
COLOURS = ["white", "blue", "red"]


def test_splits_are_fixed_for_ever() -> None:
    """Values written down once: a change would let training see what was held out from older models."""
    cherries_and_others = [code for code in CODES[0x300:0x380] if split_of(code, "flat", None, 1) != "train"]
    assert cherries_and_others == ["1F31A", "1F352", "1F365"]
    apple = [
        (style, colour, count)
        for style in ("flat", "3d", "cartoon")
        for colour in ("white", "black", "red", "blue", "green", "pink")
        for count in (1, 2, 3, 4)
        if split_of("1F34E", style, colour, count) == "heldout_combination"
    ]
    assert apple == [
        ("3d", "red", 2),
        ("3d", "red", 3),
        ("cartoon", "black", 1),
        ("cartoon", "red", 2),
        ("cartoon", "green", 3),
        ("cartoon", "pink", 1),
    ]


def test_shares() -> None:
    splits = Counter(
        split_of(code, "flat", colour, count)
        for code in CODES
        for colour in COLOURS
        for count in (1, 2, 3, 4)
    )
    total = sum(splits.values())
    assert abs(splits["heldout_emoji"] / total - 0.04) < 0.01
    assert abs(splits["heldout_combination"] / total - 0.05 * 0.96) < 0.01


def test_an_emoji_is_held_out_whole_and_in_one_style_only() -> None:
    for code in CODES[:500]:
        splits = {split_of(code, "flat", colour, count) for colour in COLOURS for count in (1, 2, 3, 4)}
        assert splits == {"heldout_emoji"} or "heldout_emoji" not in splits
        assert split_of(code, "3d", "blue", 1) != "heldout_emoji"
        assert split_of(code, "cartoon", "blue", 1) != "heldout_emoji"


def test_a_colour_without_a_name_is_no_held_out_combination() -> None:
    assert {split_of(code, "3d", None, 2) for code in CODES} == {"train"}
