"""Masks: what counts as masked, how they are fitted with their picture, and which cells they touch."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from v2flow_engine.errors import RequestError
from v2flow_engine.fitting import FITS, fit_mask, fit_picture
from v2flow_engine.masks import pixel_mask, touched_cells
from v2flow_engine.reading import to_rgb

SIZE = (6, 4)
OPAQUE = Image.new("RGB", SIZE, (10, 20, 30))
HOLE = np.zeros((4, 6), dtype=bool)
HOLE[1:3, 2:5] = True


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


def clear(hole: np.ndarray, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """An image that is transparent in the hole."""
    image = Image.new("RGB", hole.shape[::-1], colour)
    image.putalpha(grey(np.where(hole, 0, 255)))
    return image


@pytest.mark.parametrize(
    "mask",
    [
        grey(HOLE * 255),
        grey(HOLE * 128 + 127 * ~HOLE),
        grey(HOLE * 255).convert("1"),
        grey(HOLE * 255).convert("RGB"),
        grey(HOLE * 255).convert("RGBA"),
        Image.fromarray((HOLE * 65535).astype(np.uint16)),
        clear(HOLE),
        clear(HOLE, (0, 0, 0)),
    ],
    ids=[
        "white",
        "middle grey",
        "1 bit",
        "RGB",
        "opaque RGBA",
        "16 bits",
        "clear in white",
        "clear in black",
    ],
)
def test_white_is_masked_or_what_is_transparent(mask: Image.Image) -> None:
    assert np.array_equal(pixel_mask(OPAQUE, mask), HOLE)


def test_without_a_mask_the_images_own_transparent_parts_count() -> None:
    assert np.array_equal(pixel_mask(clear(HOLE), None), HOLE)
    assert np.array_equal(pixel_mask(clear(HOLE), grey(~HOLE * 255)), ~HOLE)


def test_the_mask_is_turned_upright_as_the_image_is() -> None:
    on_its_side = grey(np.rot90(HOLE) * 255)
    on_its_side.getexif()[0x0112] = 6  # to be turned clockwise
    assert np.array_equal(pixel_mask(OPAQUE, on_its_side), HOLE)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (OPAQUE, None, "expected a mask, or an image with transparent parts"),
        (OPAQUE, grey(HOLE[:, 1:] * 255), "the image's size, 6x4, got 5x4"),
        (OPAQUE, clear(HOLE[1:]), "the image's size, 6x4, got 6x3"),
        (OPAQUE, grey(HOLE * 127), "the mask is empty"),
        (OPAQUE, clear(HOLE & False, (0, 0, 0)), "the mask is empty"),
        (OPAQUE, HOLE, "expected a PIL image, got ndarray"),
    ],
)
def test_mistakes_are_named(image: Image.Image, mask: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        pixel_mask(image, mask)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", ["12x8", "3x2", "4x4", "5x9"])
def test_a_mask_goes_where_its_picture_goes(fit: str, size: str) -> None:
    """A picture that is black where it is masked: black pixels are masked, and pixels far from any are not."""
    mask = np.zeros((80, 120), dtype=bool)
    mask[30:60, 40:90] = True
    picture = fit_picture(to_rgb(grey(~mask * 255)), size, fit, (255, 255, 255))
    fitted = fit_mask(mask, size, fit)
    shown = np.asarray(picture)[..., 0]
    assert fitted.shape == shown.shape
    assert fitted[shown < 64].all()
    assert (shown[~fitted] > 192).all()


def test_no_masked_pixel_is_lost_in_scaling_down() -> None:
    mask = np.zeros((2000, 2000), dtype=bool)
    mask[1999, 0] = True
    assert np.argwhere(fit_mask(mask, "4x4")).tolist() == [[3, 0]]
    padded = fit_mask(np.ones((9, 3), dtype=bool), "6x6", "pad")
    assert padded.astype(int).tolist() == [[0, 0, 1, 1, 0, 0]] * 6


def test_a_cell_is_touched_by_any_of_its_pixels() -> None:
    mask = np.zeros((8, 12), dtype=bool)
    mask[3, 4] = mask[7, 11] = True
    assert touched_cells(mask, (2, 3)).tolist() == [[False, True, False], [False, False, True]]
