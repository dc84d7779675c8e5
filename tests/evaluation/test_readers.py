"""Background and count are read from the picture alone, also under noise and blur."""

import numpy as np
import pytest

from tests.evaluation.conftest import NUMBER, ask
from v2flow_engine.evaluation.artwork import Artwork
from v2flow_engine.evaluation.calibration import add_noise, blur, true_pictures
from v2flow_engine.evaluation.readers import CountReader, read_backgrounds
from v2flow_engine.evaluation.thumbnails import thumbnails
from v2flow_engine.training.emoji.catalogue import STYLES
from v2flow_engine.training.emoji.compose import COUNTS, PALETTE

CASES = [
    ask(index % NUMBER, STYLES[index % 3], background, count)
    for index, (background, count) in enumerate((b, c) for b in PALETTE for c in COUNTS)
]


@pytest.fixture(scope="module")
def pictures(artwork: Artwork) -> list[np.ndarray]:
    """A true picture of every background and count."""
    return true_pictures(artwork, CASES)


def degraded(pictures: list[np.ndarray], how: str) -> np.ndarray:
    """Thumbnails of the pictures after noise or blur."""
    rng = np.random.default_rng(1)
    ways = {
        "true": lambda picture: picture,
        "noisy": lambda picture: add_noise(picture, rng, 20),
        "blurred": lambda picture: blur(picture, 3),
    }
    return thumbnails([ways[how](picture) for picture in pictures])


@pytest.mark.parametrize("how", ["true", "noisy", "blurred"])
def test_every_background_is_read(pictures: list[np.ndarray], how: str) -> None:
    assert read_backgrounds(degraded(pictures, how)) == [case.background for case in CASES]


@pytest.mark.parametrize("how", ["true", "noisy", "blurred"])
def test_every_count_is_read(artwork: Artwork, pictures: list[np.ndarray], how: str) -> None:
    assert CountReader(artwork).read(degraded(pictures, how)) == [case.count for case in CASES]


def test_copies_need_not_be_of_the_same_emoji(artwork: Artwork) -> None:
    first, second = true_pictures(artwork, [ask(0, count=2), ask(1, count=2)])
    mixed = np.concatenate([first[:, :64], second[:, 64:]], axis=1)
    assert CountReader(artwork).read(thumbnails([mixed])) == [2]


def test_a_copy_that_is_missing_changes_the_count(artwork: Artwork) -> None:
    picture = true_pictures(artwork, [ask(0, count=4)])[0].copy()
    picture[:64] = picture[0, 0]
    picture[:64, 36:92] = true_pictures(artwork, [ask(0, count=3)])[0][:64, 36:92]
    assert CountReader(artwork).read(thumbnails([picture])) == [3]


def test_an_empty_picture_reads_as_one(artwork: Artwork) -> None:
    assert CountReader(artwork).read(np.full((1, 32, 32, 3), 7.0)) == [1]
