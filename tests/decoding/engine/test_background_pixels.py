"""BackgroundPixels: the pictures of PixelDecoder, in batches of one size; cancelling, failing, closing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch

from tests.tiny_model import tiny_autoencoder
from v2flow_engine.decoding.engine.background_pixels import BackgroundPixels
from v2flow_engine.decoding.engine.pixels import PixelDecoder
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.models.vae import Autoencoder

WAIT = 60


class Watched(Autoencoder):
    """Notes the batches that it decodes; holds each until `free`."""

    def __init__(self) -> None:
        super().__init__(tiny_autoencoder().eval())
        self.free, self.begun = threading.Event(), threading.Event()
        self.batches: list[tuple[int, ...]] = []
        self.broken = False

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.begun.set()
        assert self.free.wait(WAIT)
        self.batches.append(tuple(latents.shape))
        if self.broken:
            raise RuntimeError("no memory")
        return super().decode(latents)


@pytest.fixture
def autoencoder() -> Watched:
    torch.manual_seed(0)
    return Watched()


@pytest.fixture
def pixels(autoencoder: Watched) -> Iterator[BackgroundPixels]:
    pixels = BackgroundPixels(PixelDecoder(autoencoder, EngineSettings(pixel_batch=3)), torch.device("cpu"))
    yield pixels
    autoencoder.free.set()
    pixels.close()


def latents(count: int, *grid: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 4, *(grid or (4, 4)), generator=torch.Generator().manual_seed(count)))


def test_what_waits_shares_batches_of_one_size(autoencoder: Watched, pixels: BackgroundPixels) -> None:
    given = [*latents(1), *latents(2), *latents(1, 4, 8), *latents(3)]
    futures = pixels.submit(given[:1])
    assert autoencoder.begun.wait(WAIT)
    futures += [future for each in given[1:] for future in pixels.submit([each])]
    autoencoder.free.set()
    pictures = [future.result(WAIT) for future in futures]
    assert autoencoder.batches == [(1, 4, 4, 4), (3, 4, 4, 4), (1, 4, 4, 8), (2, 4, 4, 4)]
    with torch.inference_mode():
        plain = [each.numpy() for each in PixelDecoder(autoencoder, EngineSettings())(given)]
    for picture, expected in zip(pictures, plain, strict=True):
        assert picture.shape == expected.shape and picture.dtype == np.uint8
        assert np.abs(picture.astype(int) - expected).max() <= 1  # batched sums round otherwise


def test_what_is_cancelled_is_not_computed(autoencoder: Watched, pixels: BackgroundPixels) -> None:
    (first,) = pixels.submit(latents(1))
    assert autoencoder.begun.wait(WAIT)
    rest = pixels.submit(latents(3))
    assert rest[1].cancel() and not first.cancel()
    autoencoder.free.set()
    assert all(future.result(WAIT).any() for future in (first, rest[0], rest[2]))
    assert [batch[0] for batch in autoencoder.batches] == [1, 2]


def test_a_failure_is_that_of_its_batch_alone(autoencoder: Watched, pixels: BackgroundPixels) -> None:
    autoencoder.broken = True
    autoencoder.free.set()
    for future in pixels.submit(latents(2)):
        with pytest.raises(RuntimeError, match="no memory"):
            future.result(WAIT)
    autoencoder.broken = False
    assert pixels.submit(latents(1))[0].result(WAIT).any()


def test_closing_cancels_what_waits(autoencoder: Watched, pixels: BackgroundPixels) -> None:
    (first,) = pixels.submit(latents(1))
    assert autoencoder.begun.wait(WAIT)
    (second,) = pixels.submit(latents(1))
    closing = threading.Thread(target=pixels.close)
    closing.start()
    with pytest.raises(CancelledError):
        second.result(WAIT)
    autoencoder.free.set()
    assert first.result(WAIT).any()
    closing.join(WAIT)
