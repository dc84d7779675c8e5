"""Pictures against originals -> PSNR and SSIM; codes -> how much of the codebook is in use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from v2flow_engine.errors import DataError

MIN_SSIM_SIZE = 12  # the window of SSIM is 11 pixels wide


def psnr(pictures: Sequence[np.ndarray], originals: Sequence[np.ndarray]) -> list[float]:
    """Peak signal-to-noise ratio of each picture in dB; infinite where it equals its original.

    pictures, originals: (H, W, 3) uint8 each.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    pairs = _pairs(pictures, originals)
    return [float(peak_signal_noise_ratio(ours, truth, data_range=1.0)) for ours, truth in pairs]


def ssim(pictures: Sequence[np.ndarray], originals: Sequence[np.ndarray]) -> list[float]:
    """Structural similarity of each picture, at most 1 (Wang et al. 2004; Gaussian window of 11 pixels)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    pairs = _pairs(pictures, originals)
    return [float(structural_similarity_index_measure(ours, truth, data_range=1.0)) for ours, truth in pairs]


def codebook_statistics(codes: torch.Tensor, codebook_size: int) -> dict[str, float | int]:
    """codes (any shape) in [0, K) -> usage, the share of K that occurs; perplexity, exp of their entropy."""
    counts = torch.bincount(codes.flatten().cpu(), minlength=codebook_size).double()
    if len(counts) > codebook_size:
        raise DataError(f"code {len(counts) - 1} is not in a codebook of {codebook_size}")
    shares = counts[counts > 0] / counts.sum()
    return {
        "codebook_usage": float((counts > 0).sum()) / codebook_size,
        "codebook_perplexity": float(torch.exp(-(shares * shares.log()).sum())),
        "codes_counted": int(counts.sum()),
    }


def _pairs(
    pictures: Sequence[np.ndarray], originals: Sequence[np.ndarray]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pairs = []
    for picture, original in zip(pictures, originals, strict=True):
        if picture.shape != original.shape or min(picture.shape[:2]) < MIN_SSIM_SIZE:
            raise DataError(
                f"cannot compare a picture {picture.shape} with an original {original.shape}; "
                f"expected equal shapes of at least {MIN_SSIM_SIZE} pixels"
            )
        pairs.append((_unit(picture), _unit(original)))
    return pairs


def _unit(picture: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in 0..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
