"""Sheets: one PNG and one HTML file, whatever the captions are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from v2flow_engine.errors import OutputError
from v2flow_engine.evaluation.cache import cache_folder, make_folder
from v2flow_engine.evaluation.sheets import Row, write_sheet

RED, BLUE = (np.full((16, 16, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))


def test_pictures_stand_side_by_side_in_both_files(tmp_path: Path) -> None:
    rows = [Row([RED, BLUE], ["<a> & b " * 30, "second line"])] * 7
    drawn, written = write_sheet(
        tmp_path, "sheet", "Title <1>", ["ours", "theirs"], {"some": rows, "none": []}
    )
    page = written.read_text()
    assert page.count("<img ") == 14
    assert "Title &lt;1&gt;" in page
    assert "&lt;a&gt; &amp; b" in page
    assert "none" not in page
    pixels = np.asarray(Image.open(drawn).convert("RGB"))
    assert (pixels == (255, 0, 0)).all(axis=-1).sum() == (pixels == (0, 0, 255)).all(axis=-1).sum() == 7 * 256
    first = np.argwhere((pixels == (255, 0, 0)).all(axis=-1)).min(axis=0)
    assert tuple(pixels[first[0], first[1] + 18]) == (0, 0, 255)


def test_wide_pictures_and_a_page_of_another_name(tmp_path: Path) -> None:
    wide = np.full((16, 48, 3), (255, 0, 0), np.uint8)
    drawn, written = write_sheet(
        tmp_path, "sheet", "t", ["one", "two"], {"few": [Row([wide, BLUE], ["x"])]}, page="index.html"
    )
    assert written == tmp_path / "index.html"
    pixels = np.asarray(Image.open(drawn).convert("RGB"))
    assert pixels.shape[1] < 2 * (2 * 50 + 32)  # one row needs no room for five
    top, left = np.argwhere((pixels == (255, 0, 0)).all(axis=-1)).min(axis=0)
    assert tuple(pixels[top, left + 50]) == (0, 0, 255)
    assert (pixels == (255, 0, 0)).all(axis=-1).sum() == 16 * 48


def test_accents_stay_on_the_page_and_are_left_out_of_the_png(tmp_path: Path) -> None:
    accented, plain = (
        write_sheet(tmp_path, name, "t", ["one"], {"some": [Row([RED], [line])]})
        for name, line in (("accented", "corazón"), ("plain", "corazon"))
    )
    assert accented[0].read_bytes() == plain[0].read_bytes()
    assert "corazón" in accented[1].read_text(encoding="utf-8")


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        write_sheet(tmp_path / "nowhere", "sheet", "title", ["one"], {"some": [Row([RED], ["x"])]})


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the folder"):
        make_folder(tmp_path / "file" / "out")


def test_the_cache_lies_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("things") == tmp_path / "v2flow" / "things"
    assert (tmp_path / "v2flow" / "things").is_dir()
