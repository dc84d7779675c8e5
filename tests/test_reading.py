"""Image files of every kind that users have become upright RGB; what is no image is named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.broken_exif import TURNED, UNREADABLE
from v2flow_engine.errors import DataError, RequestError
from v2flow_engine.reading import read_picture, to_rgb, upright

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def pixels(image: Image.Image) -> list[list[tuple[int, ...]]]:
    """Rows of colours."""
    return [[tuple(pixel) for pixel in row] for row in np.asarray(image).tolist()]


def two_colours() -> Image.Image:
    """2 x 1: red, blue."""
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    return image


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "gif", "tiff", "ppm"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{suffix}"
    two_colours().save(path, **({"lossless": True} if suffix == "webp" else {}))
    found = read_picture(path)
    assert found.mode == "RGB"
    assert pixels(found) == [[RED, BLUE]]


def test_orientation_is_applied_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    two_colours().save(tmp_path / "turned.png", exif=exif)
    found = read_picture(tmp_path / "turned.png")
    assert pixels(found) == [[RED], [BLUE]]
    assert pixels(to_rgb(found)) == pixels(found)


@pytest.mark.parametrize("data", TURNED.values(), ids=TURNED.keys())
def test_odd_tags_beside_the_orientation_do_not_keep_it_from_being_applied(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        turned = upright(image)
        assert image.size == (96, 64) and turned.size == upright(turned).size == (64, 96)
        assert turned.has_transparency_data == image.has_transparency_data
        assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_exif_that_cannot_be_read_turns_nothing(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(upright(image)), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    two_colours().resize((4, 3)).save(buffer, "PNG", exif=exif)
    with Image.open(buffer) as image:
        assert pixels(upright(image)) == pixels(ImageOps.exif_transpose(image))


def test_transparency_is_laid_on_the_ground(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (3, 1), (*RED, 255))
    rgba.putpixel((1, 0), (*RED, 0))
    rgba.putpixel((2, 0), (0, 0, 0, 51))  # a fifth
    rgba.save(tmp_path / "rgba.png")
    assert pixels(read_picture(tmp_path / "rgba.png")) == [[RED, (255, 255, 255), (204, 204, 204)]]
    assert pixels(read_picture(tmp_path / "rgba.png", GREEN)) == [[RED, GREEN, (0, 204, 0)]]


def test_a_transparent_palette_colour_is_laid_on_the_ground(tmp_path: Path) -> None:
    palette = two_colours().convert("P")
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((1, 0)))
    assert pixels(read_picture(tmp_path / "palette.png", GREEN)) == [[RED, GREEN]]


def test_of_an_animation_it_is_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
    for name in ("animated.gif", "animated.webp", "animated.png"):
        frames[0].save(
            tmp_path / name,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if "w" in name else {}),
        )
        assert pixels(read_picture(tmp_path / name)) == [[RED] * 2] * 2


def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for name in ("grey.png", "grey.tiff"):
        Image.fromarray(deep).save(tmp_path / name)
        assert pixels(read_picture(tmp_path / name)) == [[(v, v, v) for v in (0, 1, 128, 255)]]


def test_floats_are_scaled(tmp_path: Path) -> None:
    for values in ([[0.0, 0.2, 1.0]], [[0.0, 51.0, 255.0]]):
        Image.fromarray(np.array(values, np.float32)).save(tmp_path / "float.tiff")
        assert pixels(read_picture(tmp_path / "float.tiff")) == [[(v, v, v) for v in (0, 51, 255)]]


def test_cmyk_and_grey(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.tiff")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    Image.new("1", (1, 1), 1).save(tmp_path / "bit.png")
    assert pixels(read_picture(tmp_path / "cmyk.tiff"))[0][0] == RED
    assert np.abs(np.subtract(pixels(read_picture(tmp_path / "cmyk.jpg"))[0][0], RED)).max() < 4
    assert pixels(read_picture(tmp_path / "bit.png")) == [[(255, 255, 255)]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing.png", "No such file"),
        ("text.png", "an unknown format"),
        ("cut.png", "read"),
        (".", "directory"),
    ],
)
def test_what_is_no_picture_is_named(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    two_colours().resize((99, 99)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:100])
    with pytest.raises(DataError, match=expected) as caught:
        read_picture(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_an_array_is_no_image() -> None:
    with pytest.raises(RequestError, match="expected a PIL image, got ndarray"):
        to_rgb(np.zeros((2, 2, 3), np.uint8))
