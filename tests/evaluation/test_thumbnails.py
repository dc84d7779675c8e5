"""Every size of picture comes down to the same 32 x 32 cells."""

import numpy as np
import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.evaluation.thumbnails import thumbnail


def test_a_cell_is_the_mean_of_its_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = picture[10:12, 60:62].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(thumbnail(picture)[5, 30], expected)


def test_a_pixel_over_two_cells_counts_by_its_parts() -> None:
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[1, 1] = 240  # cells are 1.5 pixels wide: a third of each of the first four lies on this pixel
    expected = np.full((2, 2), 240 / 9)
    np.testing.assert_allclose(thumbnail(picture)[:2, :2, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("size", [16, 40, 96, 256])
def test_a_plain_picture_stays_plain(size: int) -> None:
    picture = np.full((size, size, 3), (10, 200, 30), np.uint8)
    np.testing.assert_allclose(thumbnail(picture), np.full((32, 32, 3), (10, 200, 30)), rtol=1e-5)


@pytest.mark.parametrize(
    ("picture", "named"),
    [
        (np.zeros((64, 128, 3), np.uint8), "128x64"),
        (np.zeros((64, 64), np.uint8), "(64, 64)"),
        (np.zeros((64, 64, 3)), "float64"),
    ],
)
def test_what_cannot_be_judged_is_named(picture: np.ndarray, named: str) -> None:
    with pytest.raises(DataError) as error:
        thumbnail(picture)
    assert named in str(error.value)
