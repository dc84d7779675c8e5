"""Catalogue + wishes -> the list of pictures to make, in order, each with its split. Seeded; draws no pixels.

Held-out pictures are planned apart from training pictures, so that every shard holds one split.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from v2flow_engine.errors import DataError
from v2flow_engine.training.emoji.catalogue import Emoji
from v2flow_engine.training.emoji.compose import COUNTS, PALETTE, nearest_colour_name
from v2flow_engine.training.emoji.splits import SPLITS, split_of

# Of `images` random pictures, this share goes to each held-out split.
HELDOUT_SHARES: dict[str, float] = {"heldout_combination": 0.02, "heldout_emoji": 0.02}


@dataclass(frozen=True)
class Picture:
    """One picture to make; `background_name` is None where the colour has no name of the palette."""

    emoji: Emoji
    style: str
    background_name: str | None
    background_rgb: tuple[int, int, int]
    count: int


Plan = dict[str, list[Picture]]


def plan_all(catalogue: list[Emoji], counts: Sequence[int] = COUNTS) -> Plan:
    """Every combination of (emoji, style, colour of the palette, count), by split, in a fixed order."""
    plan: Plan = {split: [] for split in SPLITS}
    for emoji in catalogue:
        for style in emoji.styles:
            for name, rgb in PALETTE.items():
                for count in counts:
                    picture = Picture(emoji, style, name, rgb, count)
                    plan[split_of(emoji.hexcode, style, name, count)].append(picture)
    return plan


def shuffle_plan(plan: Plan, seed: int) -> Plan:
    """The same pictures in an order drawn from the seed."""
    return {split: random.Random(f"{seed}/{split}").sample(each, len(each)) for split, each in plan.items()}


def plan_random(
    catalogue: list[Emoji], images: int, background: str, seed: int, counts: Sequence[int] = COUNTS
) -> Plan:
    """`images` random pictures, a fixed share of them held out.

    background: "palette" (combinations drawn without repetition), the name of one colour (likewise), or
    "random" (any RGB colour). Raises DataError if there are fewer different combinations than asked for.
    """
    sizes = {split: round(images * share) for split, share in HELDOUT_SHARES.items()}
    sizes["train"] = images - sum(sizes.values())
    if background == "random":
        return {split: _random_colours(catalogue, split, sizes[split], seed, counts) for split in SPLITS}
    plan = {
        split: [picture for picture in each if background in ("palette", picture.background_name)]
        for split, each in plan_all(catalogue, counts).items()
    }
    for split, each in plan.items():
        if sizes[split] > len(each):
            raise DataError(
                f"--images {images} takes {sizes[split]} pictures of the split {split}, but --background "
                f"{background} gives {len(each)} different ones; ask for fewer, or for --background random"
            )
    return {split: pictures[: sizes[split]] for split, pictures in shuffle_plan(plan, seed).items()}


def _random_colours(
    catalogue: list[Emoji], split: str, size: int, seed: int, counts: Sequence[int]
) -> list[Picture]:
    rng = random.Random(f"{seed}/{split}/random colours")
    pairs = [(emoji, style) for emoji in catalogue for style in emoji.styles]
    # Held-out emoji are too rare to be waited for.
    if split == "heldout_emoji":
        pairs = [pair for pair in pairs if split_of(pair[0].hexcode, pair[1], None, 1) == split]
    if size and not pairs:
        raise DataError(f"the catalogue of {len(catalogue)} emoji has none for the split {split}")
    pictures: list[Picture] = []
    while len(pictures) < size:
        emoji, style = rng.choice(pairs)
        red, green, blue, count = (
            rng.randrange(256),
            rng.randrange(256),
            rng.randrange(256),
            rng.choice(counts),
        )
        name = nearest_colour_name((red, green, blue))
        if split_of(emoji.hexcode, style, name, count) == split:
            pictures.append(Picture(emoji, style, name, (red, green, blue), count))
    return pictures
