"""Image files: the pixels survive, and so does what they say about themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from v2flow_engine.errors import DataError, OutputError, RequestError
from v2flow_engine.images import FORMATS, ImageMetadata, encode_image, format_of, read_metadata

METADATA = ImageMetadata(
    'two "red" cats,\n猫 🐈 é\\',
    2**63 - 1,
    {"size": "64x64", "guidance_scale": 3.0, "rounds": 4, "model": "ü"},
)


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    """A smooth picture that is not square, so that a transposed one would show."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 8, columns * 5, (rows + columns) * 3], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("image_format", FORMATS)
def test_metadata_and_pixels_survive(image_format: str, tmp_path: Path) -> None:
    pixels = gradient()
    data = encode_image(pixels, image_format, METADATA)
    path = tmp_path / "picture"
    path.write_bytes(data)
    assert read_metadata(data) == METADATA
    assert read_metadata(path) == METADATA
    with Image.open(path) as image:
        assert image.format == image_format.upper()
        difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels)
    assert difference.max() == 0 if image_format == "png" else difference.mean() < 3


@given(prompt=st.text(max_size=200).filter(str.strip), seed=st.integers(0, 2**63 - 1))
def test_any_prompt_survives(prompt: str, seed: int) -> None:
    metadata = ImageMetadata(prompt, seed, {"temperature": 0.1})
    for image_format in FORMATS:
        assert read_metadata(encode_image(gradient(8, 8), image_format, metadata)) == metadata


def test_png_text_is_where_other_tools_look() -> None:
    with Image.open(io.BytesIO(encode_image(gradient(), "png", METADATA))) as image:
        text = image.text
    assert text["prompt"] == METADATA.prompt
    assert text["seed"] == str(METADATA.seed)
    assert json.loads(text["parameters"]) == METADATA.parameters


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 1), (1, 5), (31, 17)])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16"])
def test_png_of_any_mode_and_shape_is_what_was_given(mode: str, height: int, width: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    image = Image.fromarray(noise).convert("RGB" if mode == "P" else "L" if mode == "I;16" else "RGBA")
    image = image.convert(mode)
    data = encode_image(image, "png", METADATA)
    with Image.open(io.BytesIO(data)) as checked:
        checked.verify()  # the checksums of all chunks
    with Image.open(io.BytesIO(data)) as written:
        same = image if mode in ("L", "LA", "RGB", "RGBA") else image.convert("RGB")
        assert written.mode == same.mode and np.array_equal(np.asarray(written), np.asarray(same))


def test_png_takes_pixels_that_are_not_contiguous() -> None:
    pixels = gradient()[::-1, ::2]
    with Image.open(io.BytesIO(encode_image(pixels, "png"))) as image:
        assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("image_format", ["webp", "jpeg"])
def test_exif_user_comment_is_where_other_tools_look(image_format: str) -> None:
    with Image.open(io.BytesIO(encode_image(gradient(), image_format, METADATA))) as image:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert json.loads(comment.removeprefix(b"ASCII\0\0\0"))["prompt"] == METADATA.prompt


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_picture_without_metadata_has_none(image_format: str) -> None:
    assert read_metadata(encode_image(gradient(), image_format)) is None


def test_foreign_text_is_no_metadata() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0taken on holiday"
    Image.fromarray(gradient()).save(buffer, "JPEG", exif=exif)
    assert read_metadata(buffer.getvalue()) is None


@pytest.mark.parametrize("source", [b"no picture", Path("missing.png")])
def test_no_picture_is_a_data_error(source: bytes | Path) -> None:
    with pytest.raises(DataError, match="not a readable picture"):
        read_metadata(source)


def test_wrong_pixels_and_formats_are_named() -> None:
    with pytest.raises(RequestError, match=r"float64 \(2, 2\)"):
        encode_image(np.zeros((2, 2)))
    with pytest.raises(RequestError, match="'gif'"):
        encode_image(gradient(), "gif")
    assert [format_of(name) for name in ("a.PNG", "b.webp", "c.jpg", "d.jpeg")] == [
        "png",
        "webp",
        "jpeg",
        "jpeg",
    ]
    with pytest.raises(OutputError, match=r"picture\.gif"):
        format_of("picture.gif")
