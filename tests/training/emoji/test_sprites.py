"""Artwork drawn as sprites."""

from pathlib import Path

import numpy as np
import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.training.emoji import sprites as sprites_module
from v2flow_engine.training.emoji.catalogue import load_catalogue
from v2flow_engine.training.emoji.sprites import draw_svg, load_sprites


def test_every_pair_of_the_catalogue_has_a_sprite(tiny_packages: Path) -> None:
    sprites = load_sprites(tiny_packages, size=48, workers=1)
    pairs = {(emoji.hexcode, style) for emoji in load_catalogue(tiny_packages) for style in emoji.styles}
    assert set(sprites) == pairs
    for (_, style), sprite in sprites.items():
        assert sprite.shape == (48, 48, 4)
        assert sprite.dtype == np.uint8
        expected = (0, 0, 255, 128) if style == "3d" else (255, 0, 0, 255)
        assert sprite[24, 24].tolist() == pytest.approx(expected, abs=1)
        assert style == "3d" or sprite[0, 0, 3] == 0


def test_a_disc_is_drawn_where_it_should_be() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="16" cy="16" r="8"/></svg>'
    alpha = draw_svg(svg, 112)[..., 3] / 255
    assert alpha.shape == (112, 112)
    assert alpha.sum() == pytest.approx(np.pi * (8 * 112 / 32) ** 2, rel=0.01)
    rows, columns = np.nonzero(alpha > 0.5)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (28, 83, 28, 83)


def test_the_second_call_draws_nothing(tiny_packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_sprites(tiny_packages, size=32, workers=1)
    monkeypatch.setattr(sprites_module, "_draw", None)  # any drawing now fails
    second = load_sprites(tiny_packages, size=32, workers=1)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_workers_draw_the_same(tiny_packages: Path) -> None:
    alone = {key: sprite.copy() for key, sprite in load_sprites(tiny_packages, size=32, workers=1).items()}
    (tiny_packages / "sprites-32.json").unlink()
    together = load_sprites(tiny_packages, size=32, workers=2)
    assert all(np.array_equal(alone[key], together[key]) for key in alone)


def test_artwork_that_cannot_be_drawn_is_named(tiny_packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sprites_module, "read_webps", lambda _: _broken_webps(tiny_packages))
    with pytest.raises(DataError, match="style '3d' cannot be drawn"):
        load_sprites(tiny_packages, size=32, workers=1)
    assert not list(tiny_packages.glob("*sprites-*"))


def _broken_webps(packages: Path) -> dict[str, bytes]:
    return {emoji.hexcode: b"not a picture" for emoji in load_catalogue(packages) if "3d" in emoji.styles}
