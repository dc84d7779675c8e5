"""Joining captions and artwork."""

from pathlib import Path

import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.training.emoji import sources
from v2flow_engine.training.emoji.catalogue import (
    load_catalogue,
    normalise_hexcode,
    read_labels,
    read_svgs,
    select,
)


@pytest.mark.parametrize(
    ("written", "normal"),
    [("00ae-fe0f", "AE"), ("1F3F3-FE0F-200D-1F308", "1F3F3-200D-1F308"), ("0023-fe0f-20e3", "23-20E3")],
)
def test_normalise_hexcode(written: str, normal: str) -> None:
    assert normalise_hexcode(written) == normal


def test_catalogue(tiny_packages: Path) -> None:
    catalogue = {emoji.label: emoji for emoji in load_catalogue(tiny_packages)}
    assert [each.hexcode for each in load_catalogue(tiny_packages)] == sorted(
        each.hexcode for each in catalogue.values()
    )
    assert catalogue["red apple"].styles == ("flat", "3d", "cartoon")
    assert catalogue["red apple"].tags == ("thing", "red")
    assert catalogue["man: bald"].styles == ("cartoon",)
    assert catalogue["copyright"].hexcode == "A9"
    assert catalogue["copyright"].styles == ("flat", "3d", "cartoon")


def test_flags_are_not_taken_from_the_3d_set(tiny_packages: Path) -> None:
    catalogue = {emoji.label: emoji for emoji in load_catalogue(tiny_packages)}
    assert catalogue["black flag"].styles == ("flat", "cartoon")


def test_skin_variants_and_components_are_left_out(tiny_packages: Path) -> None:
    catalogue = load_catalogue(tiny_packages)
    assert not {"red apple: light", "regional indicator A", "red hair"} & {emoji.label for emoji in catalogue}
    assert not any("1F3FB" in emoji.hexcode for emoji in catalogue)


def test_views_are_square_and_centred(tiny_packages: Path) -> None:
    assert all('viewBox="0 0 32 32"' in svg for svg in read_svgs(tiny_packages, "flat").values())


def test_a_missing_package_is_named(tiny_packages: Path) -> None:
    noto = next(package for package in sources.PACKAGES if package.role == "cartoon")
    (tiny_packages / noto.filename).unlink()
    with pytest.raises(DataError, match="iconify-json-noto"):
        load_catalogue(tiny_packages)


def test_common_emoji_are_chosen_by_label(tiny_packages: Path, tmp_path: Path) -> None:
    catalogue = load_catalogue(tiny_packages)
    two = [emoji.label for emoji in catalogue][:2]
    listing = tmp_path / "some.txt"
    listing.write_text(f"# a comment\n{two[1]}\n\n{two[0]}\n")
    labels = read_labels(str(listing))
    assert [emoji.label for emoji in select(catalogue, labels)] == two
    assert read_labels("all") is None
    common = read_labels("common")
    assert len(common) == len(set(common)) > 100 and "pizza" in common
    with pytest.raises(DataError, match="'no such thing'"):
        select(catalogue, ["no such thing"])
    with pytest.raises(DataError, match="nowhere"):
        read_labels("nowhere.txt")
