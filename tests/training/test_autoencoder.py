"""The autoencoder's loss is the sum that its config says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tiny_model import tiny_autoencoder
from v2flow_engine.training.autoencoder import AutoencoderConfig, AutoencoderStage
from v2flow_engine.training.batches import BatchPart
from v2flow_engine.training.loop import LoopConfig
from v2flow_engine.training.pictures import Pictures, psnr

LOOP = LoopConfig(steps=1, batch_size=3, learning_rate=0.001, bf16=False)


def stage(**weights: float) -> AutoencoderStage:
    """A stage on one blank picture and two of noise."""
    model = {k: v for k, v in tiny_autoencoder().config.items() if not k.startswith("_")}
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    pixels[0] = 255
    pictures = [Pictures(torch.from_numpy(pixels), [{}] * 3)]
    config = AutoencoderConfig(model=model, loop=LOOP, latent_noise=0.0, **weights)
    return AutoencoderStage(config, pictures, pictures, torch.device("cpu"))


PART = BatchPart(seed=0, step=0, chosen=0, indices=torch.arange(3), first=0, whole=3)


@pytest.mark.parametrize("weights", [{"squared_weight": 3.0}, {"squared_weight": 0.0, "psnr_weight": 0.1}])
def test_the_loss_is_the_sum_that_the_config_says(weights: dict[str, float]) -> None:
    made = stage(**weights)
    pixels = made.train[0].batch(PART.indices, "cpu")
    rebuilt = made.net.decode(made.net.encode(pixels))
    wanted = F.l1_loss(rebuilt, pixels) + weights["squared_weight"] * F.mse_loss(rebuilt, pixels)
    wanted = wanted - weights.get("psnr_weight", 0.0) * psnr(rebuilt, pixels).mean()
    torch.testing.assert_close(made.loss(PART)["loss"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("psnr_weight", [0.0, 1.0])
def test_a_picture_that_is_rebuilt_exactly_leaves_the_slope_finite(psnr_weight: float) -> None:
    made = stage(psnr_weight=psnr_weight)
    with torch.no_grad():
        made.net.net.decoder.conv_out.conv.bias.add_(100)  # all white, once clamped
    loss = made.loss(PART)["loss"]
    loss.backward()
    slopes = [each.grad for each in made.net.parameters() if each.grad is not None]
    assert loss.isfinite()
    assert slopes
    assert all(slope.isfinite().all() for slope in slopes)
