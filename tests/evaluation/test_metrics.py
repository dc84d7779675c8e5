"""PSNR, SSIM and codebook statistics on values that are known."""

import math

import numpy as np
import pytest
import torch

from v2flow_engine.errors import DataError
from v2flow_engine.evaluation.metrics import codebook_statistics, psnr, ssim


def plain(level: int, size: int = 32) -> np.ndarray:
    """A grey picture."""
    return np.full((size, size, 3), level, np.uint8)


@pytest.mark.parametrize("difference", [1, 51, 255])
def test_psnr_of_a_constant_difference(difference: int) -> None:
    expected = -20 * math.log10(difference / 255)
    assert psnr([plain(difference)], [plain(0)]) == pytest.approx([expected], abs=1e-3)


def test_psnr_is_of_each_picture() -> None:
    values = psnr([plain(0), plain(51)], [plain(0), plain(0)])
    assert values == [math.inf, pytest.approx(13.979, abs=1e-3)]


def test_ssim_of_plain_pictures() -> None:
    """Without variance only the luminance term is left: (2ab + C1) / (a^2 + b^2 + C1), C1 = 0.01^2."""
    a, b, c1 = 0.2, 0.6, 0.01**2
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert ssim([plain(51), plain(51)], [plain(153), plain(51)]) == pytest.approx([expected, 1.0], abs=1e-4)


def test_ssim_falls_with_noise() -> None:
    rng = np.random.default_rng(0)
    original = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pictures = [
        np.clip(original + rng.normal(0, s, original.shape), 0, 255).astype(np.uint8) for s in (0, 20, 80)
    ]
    values = ssim(pictures, [original] * 3)
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize(("ours", "truth"), [(plain(0, 32), plain(0, 48)), (plain(0, 8), plain(0, 8))])
def test_what_cannot_be_compared_is_refused(ours: np.ndarray, truth: np.ndarray) -> None:
    with pytest.raises(DataError, match="cannot compare"):
        ssim([ours], [truth])


def test_codebook_statistics() -> None:
    even = codebook_statistics(torch.arange(8).repeat(5, 3), 16)
    assert even == {"codebook_usage": 0.5, "codebook_perplexity": pytest.approx(8.0), "codes_counted": 120}
    assert codebook_statistics(torch.zeros(4, 9, dtype=torch.int64), 10) == {
        "codebook_usage": 0.1,
        "codebook_perplexity": pytest.approx(1.0),
        "codes_counted": 36,
    }


def test_a_code_outside_the_codebook_is_refused() -> None:
    with pytest.raises(DataError, match="code 16 is not in a codebook of 16"):
        codebook_statistics(torch.tensor([[3, 16]]), 16)
