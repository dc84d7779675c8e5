"""True pictures -> what the judge says of them: of a perfect model, and of slightly worse ones.

They are judged as they are, under noise, and blurred. For what the judge misses there, no model is to blame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from v2flow_engine.evaluation.artwork import Artwork
from v2flow_engine.evaluation.depictions import Depiction
from v2flow_engine.evaluation.judge import Judge
from v2flow_engine.evaluation.scores import PartScores, part_scores

NOISE_SIGMA = 20.0  # RGB levels
BLUR_RADIUS = 2.0  # pixels of 128


def true_pictures(artwork: Artwork, asked: Sequence[Depiction]) -> list[np.ndarray]:
    """What each depiction should look like, (128, 128, 3) uint8."""
    return [artwork.picture(each.hexcode, each.style, each.background, each.count) for each in asked]


def add_noise(picture: np.ndarray, rng: np.random.Generator, sigma: float = NOISE_SIGMA) -> np.ndarray:
    """The picture under Gaussian noise, in uint8."""
    return np.clip(np.round(picture + rng.normal(0, sigma, picture.shape)), 0, 255).astype(np.uint8)


def blur(picture: np.ndarray, radius: float = BLUR_RADIUS) -> np.ndarray:
    """The picture under a Gaussian blur, in uint8."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def calibrate(judge: Judge, asked: Sequence[Depiction], seed: int = 0) -> dict[str, PartScores]:
    """condition -> `part_scores` of the true pictures under it."""
    rng = np.random.default_rng(seed)
    true = true_pictures(judge.artwork, asked)
    conditions = {
        "true": true,
        "noisy": [add_noise(picture, rng) for picture in true],
        "blurred": [blur(picture) for picture in true],
    }
    pictures = [picture for each in conditions.values() for picture in each]
    verdicts = judge.judge(pictures, list(asked) * len(conditions))
    return {
        name: part_scores(verdicts[index * len(true) : (index + 1) * len(true)])
        for index, name in enumerate(conditions)
    }
