"""The judge knows true pictures, tells wrong ones, forgives no look-alike, and is what it says it is."""

import dataclasses

import numpy as np
import pytest

from tests.evaluation.conftest import NUMBER, ask
from v2flow_engine.evaluation.artwork import Artwork
from v2flow_engine.evaluation.calibration import calibrate, true_pictures
from v2flow_engine.evaluation.depictions import Depiction
from v2flow_engine.evaluation.judge import Judge
from v2flow_engine.evaluation.references import ReferenceSet
from v2flow_engine.evaluation.scores import by, generation_scores, part_scores
from v2flow_engine.evaluation.thumbnails import thumbnails
from v2flow_engine.training.emoji.catalogue import STYLES
from v2flow_engine.training.emoji.compose import COUNTS, PALETTE

NAMES = list(PALETTE)


@pytest.fixture(scope="module")
def judge(artwork: Artwork) -> Judge:
    """A judge over all of the artwork."""
    return Judge(artwork)


def varied(number: int) -> list[Depiction]:
    """Depictions that go round styles, backgrounds, counts and emoji."""
    return [ask(i % NUMBER, STYLES[i % 3], NAMES[i % 12], COUNTS[i // 3 % 4]) for i in range(number)]


def test_true_pictures_are_right(judge: Judge) -> None:
    asked = varied(60)
    scores = part_scores(judge.judge(true_pictures(judge.artwork, asked), asked))
    assert scores == {
        "n": 60,
        "top1": 1.0,
        "top5": 1.0,
        "background": 1.0,
        "count": 1.0,
        "all_right": 1.0,
        "similarity": pytest.approx(1.0, abs=1e-4),
    }


@pytest.mark.parametrize(
    ("shown", "wrong"),
    [(ask(1), "emoji"), (ask(0, background="red"), "background"), (ask(0, count=3), "count")],
)
def test_what_is_wrong_is_told(judge: Judge, shown: Depiction, wrong: str) -> None:
    verdict = judge.judge(true_pictures(judge.artwork, [shown]), [ask(0)])[0]
    assert verdict.background_right == (wrong != "background")
    assert verdict.count_right == (wrong != "count")
    if wrong == "emoji":
        assert (verdict.nearest, verdict.rank >= 1) == (shown.hexcode, True)
    assert (verdict.background, verdict.count) == (shown.background, shown.count)


def test_similarity_is_the_cosine_of_the_mean_free_thumbnails(artwork: Artwork) -> None:
    """The expanded products equal references that are really composed."""
    thumbs = thumbnails(true_pictures(artwork, [ask(4, count=3), ask(5, background="pink")]))
    backgrounds = ["brown", "white"]
    found = ReferenceSet.build(artwork, "flat", 3).similarity(
        thumbs, np.array([PALETTE[b] for b in backgrounds])
    )
    for row, thumb, background in zip(found, thumbs, backgrounds, strict=True):
        references = thumbnails(
            true_pictures(artwork, [ask(i, "flat", background, 3) for i in range(NUMBER)])
        )
        vectors = np.concatenate([thumb[None], references]).astype(np.float64)
        vectors -= vectors.mean(axis=(1, 2), keepdims=True)
        vectors = vectors.reshape(len(vectors), -1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(row, vectors[1:] @ vectors[0], atol=1e-3)


def test_look_alikes_are_misses_for_both(artwork: Artwork) -> None:
    twin = dataclasses.replace(artwork, sprites=dict(artwork.sprites))
    twin.sprites[ask(1).hexcode, "flat"] = twin.sprites[ask(0).hexcode, "flat"]
    asked = [ask(0), ask(1), ask(2)]
    verdicts = Judge(twin).judge(true_pictures(twin, asked), asked)
    assert [verdict.rank for verdict in verdicts] == [1, 1, 0]


def test_a_plain_picture_shows_no_emoji(judge: Judge) -> None:
    plain = np.full((128, 128, 3), PALETTE["teal"], np.uint8)
    verdict = judge.judge([plain], [ask(0)])[0]
    assert (verdict.rank, verdict.similarity, verdict.background_right) == (NUMBER - 1, 0.0, True)


def test_a_verdict_does_not_depend_on_its_neighbours(judge: Judge) -> None:
    asked = varied(24)
    pictures = true_pictures(judge.artwork, [*asked[12:], *asked[:12]])
    together = judge.judge(pictures, asked)
    alone = [judge.judge([picture], [each])[0] for picture, each in zip(pictures, asked, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert dataclasses.replace(one, similarity=0) == dataclasses.replace(other, similarity=0)
        assert one.similarity == pytest.approx(other.similarity, abs=1e-9)


def test_other_sizes_are_judged_alike(judge: Judge) -> None:
    picture = true_pictures(judge.artwork, [ask(3)])[0]
    half = picture.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    assert judge.judge([half], [ask(3)])[0].rank == 0


def test_calibration_is_of_all_conditions(judge: Judge) -> None:
    asked = varied(24)
    calibration = calibrate(judge, asked)
    assert list(calibration) == ["true", "noisy", "blurred"]
    assert all(scores["n"] == 24 for scores in calibration.values())
    assert calibration["noisy"]["similarity"] < calibration["true"]["similarity"]
    assert calibration["blurred"]["similarity"] < calibration["true"]["similarity"]


def test_scores_are_shares_of_the_right_pictures(judge: Judge) -> None:
    asked = [ask(0), ask(1), ask(2), ask(3)]
    shown = [ask(0), ask(1, background="red"), ask(2, count=4), ask(9)]
    verdicts = judge.judge(true_pictures(judge.artwork, shown), asked)
    scores = generation_scores(verdicts, [])
    # The third has another arrangement than its reference, the fourth another emoji.
    assert scores["seen_top1"] == sum(verdict.rank == 0 for verdict in verdicts) / 4 <= 0.75
    assert (scores["background_accuracy"], scores["count_accuracy"]) == (0.75, 0.75)
    assert scores["seen_all_right"] == 0.25
    assert scores["heldout_top1"] is None
    parts = by(verdicts, lambda verdict: verdict.background)
    assert {name: part["n"] for name, part in parts.items()} == {"red": 1, "teal": 3}
