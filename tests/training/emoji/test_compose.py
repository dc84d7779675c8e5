"""Geometry and colours of composed pictures."""

import itertools

import numpy as np
import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.training.emoji.compose import (
    COUNTS,
    NAME_DISTANCE,
    PALETTE,
    POSITIONS,
    SPRITE_WIDTHS,
    compose,
    nearest_colour_name,
    sprite_size,
)


def noise_sprite(size: int = 112) -> np.ndarray:
    sprite = np.random.default_rng(0).integers(0, 256, (size, size, 4), dtype=np.uint8)
    sprite[..., 3] = np.where(sprite[..., 3] > 100, sprite[..., 3], 0)
    return sprite


def test_arrangement_lies_on_the_grid_of_sixteen() -> None:
    assert POSITIONS[1] == ((8, 8),)
    assert SPRITE_WIDTHS[1] == 112
    for count in (2, 3, 4):
        assert len(POSITIONS[count]) == count
        assert all(offset % 16 == 4 for corner in POSITIONS[count] for offset in corner)


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("count", COUNTS)
def test_copies_are_identical_and_the_rest_is_background(count: int, size: int) -> None:
    background = PALETTE["teal"]
    picture = compose(noise_sprite(sprite_size(size)), background, count, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    scale, width = size // 128, SPRITE_WIDTHS[count] * (size // 128)
    outside = np.ones((size, size), bool)
    copies = []
    for x, y in POSITIONS[count]:
        window = np.s_[y * scale : y * scale + width, x * scale : x * scale + width]
        assert outside[window].all(), "copies overlap"
        outside[window] = False
        copies.append(picture[window])
    assert len(copies) == count
    assert all(np.array_equal(copy, copies[0]) for copy in copies)
    assert (picture[outside] == background).all()
    assert copies[0].std() > 10


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
    with pytest.raises(DataError, match="100 pixels"):
        compose(noise_sprite(), (0, 0, 0), 1, size=100)
