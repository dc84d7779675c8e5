"""Geometry and colours of composed pictures."""

import itertools

import numpy as np
import pytest

from v2flow_engine.config import parse_size
from v2flow_engine.errors import DataError
from v2flow_engine.training.emoji.compose import (
    ARRANGEMENTS,
    NAME_DISTANCE,
    PALETTE,
    SIZES,
    compose,
    counts_of,
    nearest_colour_name,
    sprite_size,
)

CASES = [(size, count) for size in SIZES for count in counts_of(size)]


def noise_sprite(size: int = 112) -> np.ndarray:
    sprite = np.random.default_rng(0).integers(0, 256, (size, size, 4), dtype=np.uint8)
    sprite[..., 3] = np.where(sprite[..., 3] > 100, sprite[..., 3], 0)
    return sprite


def test_arrangement_lies_on_the_grid_of_sixteen() -> None:
    assert (ARRANGEMENTS["128x128"][1].corners, ARRANGEMENTS["128x128"][1].width) == (((8, 8),), 112)
    for size, count in CASES:
        arrangement = ARRANGEMENTS[size][count]
        assert len(arrangement.corners) == count
        if arrangement.width == 56:
            assert all(offset % 16 == 4 for corner in arrangement.corners for offset in corner)


def test_counts_that_a_size_has() -> None:
    assert {size: counts_of(size) for size in SIZES} == {
        "128x128": (1, 2, 3, 4),
        "64x64": (1,),
        "128x64": (1, 2),
        "64x128": (1, 2),
        "256x256": (1, 2, 3, 4),
    }


@pytest.mark.parametrize(("size", "count"), CASES)
def test_copies_are_identical_and_the_rest_is_background(size: str, count: int) -> None:
    background = PALETTE["teal"]
    picture = compose(noise_sprite(sprite_size(size)), background, count, size)
    columns, rows = parse_size(size)
    assert picture.shape == (rows, columns, 3)
    assert picture.dtype == np.uint8
    width = ARRANGEMENTS[size][count].width
    outside = np.ones((rows, columns), bool)
    copies = []
    for x, y in ARRANGEMENTS[size][count].corners:
        window = np.s_[y : y + width, x : x + width]
        assert outside[window].all(), "copies overlap"
        outside[window] = False
        copies.append(picture[window])
    assert len(copies) == count
    assert all(copy.shape == (width, width, 3) and np.array_equal(copy, copies[0]) for copy in copies)
    assert (picture[outside] == background).all()
    assert copies[0].std() > 10


def test_small_pictures_are_parts_of_large_ones() -> None:
    sprite = noise_sprite()
    whole = compose(sprite, PALETTE["pink"], 4)
    assert np.array_equal(compose(sprite, PALETTE["pink"], 1, "64x64"), whole[:64, :64])
    assert np.array_equal(compose(sprite, PALETTE["pink"], 2, "128x64"), whole[:64])
    assert np.array_equal(compose(sprite, PALETTE["pink"], 2, "64x128"), whole[:, :64])


def test_blending_is_exact() -> None:
    sprite = np.zeros((112, 112, 4), np.uint8)
    sprite[:, :56] = (200, 100, 0, 255)
    sprite[:, 56:] = (200, 100, 0, 51)  # a fifth
    picture = compose(sprite, (100, 100, 255), 1)
    assert picture[64, 20].tolist() == [200, 100, 0]
    assert picture[64, 100].tolist() == [120, 100, 204]
    assert picture[0, 0].tolist() == [100, 100, 255]


def test_small_copies_have_no_fringe_of_hidden_colours() -> None:
    """Transparent pixels have a colour too; premultiplied resampling keeps it out of the picture."""
    sprite = np.zeros((112, 112, 4), np.uint8)
    sprite[...] = (255, 0, 0, 0)
    sprite[30:80, 30:80] = (0, 0, 255, 255)
    picture = compose(sprite, (0, 0, 0), 4)
    assert picture[..., 0].max() <= 2
    assert picture[..., 2].max() == 255


def test_names_of_the_palette_are_well_apart() -> None:
    assert len(PALETTE) == 12
    distances = [
        np.linalg.norm(np.subtract(left, right))
        for left, right in itertools.combinations(PALETTE.values(), 2)
    ]
    assert min(distances) > 2 * NAME_DISTANCE
    for name, rgb in PALETTE.items():
        assert nearest_colour_name(rgb) == name
        assert nearest_colour_name([min(channel + 15, 255) for channel in rgb]) == name
    assert nearest_colour_name((190, 255, 120)) is None


def test_what_has_no_arrangement_is_refused() -> None:
    with pytest.raises(DataError, match="5 copies"):
        compose(noise_sprite(), (0, 0, 0), 5)
    with pytest.raises(DataError, match="2 copies in 64x64"):
        compose(noise_sprite(), (0, 0, 0), 2, "64x64")
    with pytest.raises(DataError, match="100x100 pixels"):
        compose(noise_sprite(), (0, 0, 0), 1, "100x100")
