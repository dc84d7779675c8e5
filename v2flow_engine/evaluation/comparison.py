"""Originals and their reconstructions -> PSNR and SSIM of each, and means over several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from v2flow_engine.evaluation.metrics import psnr, ssim
from v2flow_engine.generation.image_tokenizer import Reconstruction

METRICS = ("autoencoder_psnr", "autoencoder_ssim", "tokenizer_psnr", "tokenizer_ssim")


@dataclass(frozen=True)
class Comparison:
    """One original, what became of it (H, W, 3) uint8 each, and `metrics`: a value for each of METRICS."""

    name: str
    kind: str
    original: np.ndarray
    by_autoencoder: np.ndarray
    by_tokenizer: np.ndarray
    metrics: dict[str, float]


def compare(names: Sequence[str], kinds: Sequence[str], made: Sequence[Reconstruction]) -> list[Comparison]:
    """Measure every reconstruction against its original."""
    originals = [np.asarray(each.original) for each in made]
    first = [np.asarray(each.by_autoencoder) for each in made]
    second = [np.asarray(each.by_tokenizer) for each in made]
    columns = [
        psnr(first, originals),
        ssim(first, originals),
        psnr(second, originals),
        ssim(second, originals),
    ]
    metrics = [dict(zip(METRICS, values, strict=True)) for values in zip(*columns, strict=True)]
    return list(map(Comparison, names, kinds, originals, first, second, metrics))


def mean_metrics(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """The mean of each metric over pictures (of PSNR: the mean of decibels)."""
    return {name: float(np.mean([each.metrics[name] for each in comparisons])) for name in METRICS}


def by_kind(comparisons: Sequence[Comparison]) -> dict[str, dict[str, float]]:
    """`mean_metrics` of each kind, sorted by its name."""
    kinds = sorted({each.kind for each in comparisons})
    return {kind: mean_metrics([each for each in comparisons if each.kind == kind]) for kind in kinds}
