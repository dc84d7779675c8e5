"""Each way of fitting, by pixels worked out by hand: all sides here are whole multiples, so that Lanczos is exact."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from v2flow_engine.errors import RequestError
from v2flow_engine.fitting import border_color, fit_picture, parse_color


def columns(*values: int, height: int) -> Image.Image:
    """Grey columns, one pixel wide each."""
    row = np.array(values, np.uint8)
    return Image.fromarray(np.tile(row[None, :, None], (height, 1, 3)))


def grey(image: Image.Image) -> list[list[int]]:
    """Rows of the red channel."""
    return np.asarray(image)[..., 0].tolist()


WIDE = columns(10, 20, 30, 40, 50, 60, height=2)


def test_crop_cuts_the_centre() -> None:
    assert grey(fit_picture(WIDE, "2x2")) == [[30, 40]] * 2
    assert grey(fit_picture(WIDE, "4x2")) == [[20, 30, 40, 50]] * 2
    assert grey(fit_picture(WIDE.transpose(Image.Transpose.TRANSPOSE), "2x2")) == [[30, 30], [40, 40]]


def test_pad_keeps_all_and_fills_the_rest() -> None:
    assert grey(fit_picture(WIDE, "6x4", "pad", (7, 7, 7))) == [
        [7] * 6,
        [10, 20, 30, 40, 50, 60],
        [10, 20, 30, 40, 50, 60],
        [7] * 6,
    ]
    assert grey(fit_picture(WIDE, "10x2", "pad", (7, 7, 7))) == [[7, 7, 10, 20, 30, 40, 50, 60, 7, 7]] * 2


def test_padding_is_the_mean_of_the_border() -> None:
    picture = np.full((3, 3, 3), 100, np.uint8)
    picture[1, 1] = 255  # not of the border
    picture[0, 0] = 20  # one of eight
    assert border_color(Image.fromarray(picture)) == (90, 90, 90)
    assert grey(fit_picture(Image.fromarray(picture), "5x3", "pad"))[1] == [90, 100, 255, 100, 90]


def test_black_is_a_colour_to_pad_with() -> None:
    assert grey(fit_picture(WIDE, "6x4", "pad", (0, 0, 0)))[0] == [0] * 6


def test_stretch_keeps_all_and_adds_nothing() -> None:
    flat = fit_picture(columns(80, 80, height=8), "4x4", "stretch")
    assert grey(flat) == [[80] * 4] * 4
    assert grey(fit_picture(WIDE, "6x3", "stretch")) == [[10, 20, 30, 40, 50, 60]] * 3


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_what_fits_stays_as_it_is(fit: str) -> None:
    assert np.array_equal(fit_picture(WIDE, "6x2", fit), WIDE)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (1000, 1), (1, 1000), (3, 7), (200, 150)])
def test_any_size_comes_to_the_asked_one(fit: str, size: tuple[int, int]) -> None:
    found = fit_picture(Image.new("RGB", size, (9, 9, 9)), "32x16", fit)
    assert found.size == (32, 16)
    assert grey(found) == [[9] * 32] * 16


def test_colours() -> None:
    assert parse_color("white") == parse_color("#fff") == parse_color("rgb(255,255,255)") == (255, 255, 255)
    for text, expected in (("snowy", "'snowy'"), ("", "''"), ("#ff000080", "opaque")):
        with pytest.raises(RequestError, match=expected):
            parse_color(text)


def test_an_unknown_fit_is_named() -> None:
    with pytest.raises(RequestError, match="crop, pad, stretch, got 'squeeze'"):
        fit_picture(WIDE, "2x2", "squeeze")
