"""Latents to pixels: mixed sizes in batches, and large pictures in tiles against the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.decoding.engine.engine_cases import make_request, tiny_decoder
from v2flow_engine.checkpoint import open_tokenizer
from v2flow_engine.decoding.decoder import to_uint8
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.pixels import PixelDecoder
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.errors import RequestError
from v2flow_engine.models.vae import Autoencoder


def decibels(ours: np.ndarray, theirs: np.ndarray) -> float:
    """PSNR of 8-bit pictures."""
    error = float(np.square(ours.astype(float) - theirs).mean())
    return float(10 * np.log10(255**2 / error))


@pytest.fixture(scope="module")
def embedded() -> Autoencoder:
    return open_tokenizer("v2flow-emoji").load_autoencoder()


@pytest.fixture(scope="module")
def latents(embedded: Autoencoder) -> torch.Tensor:
    """Of a smooth picture of 256 x 192 pixels, so that its middle tiles have neighbours on all sides."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 9, 12, generator=generator) * 2 - 1
    pixels = F.interpolate(coarse, (192, 256), mode="bicubic", align_corners=False).clamp(-1, 1)
    with torch.inference_mode():
        return embedded.encode(pixels)


@torch.inference_mode()
def test_tiles_give_nearly_the_whole_picture(embedded: Autoencoder, latents: torch.Tensor) -> None:
    whole = to_uint8(embedded.decode(latents))[0]
    (small,) = PixelDecoder(embedded, EngineSettings(tile=64))([latents[0]])
    (tiled,) = PixelDecoder(embedded, EngineSettings(tile=128))([latents[0]])
    assert tiled.numpy().shape == whole.shape == (192, 256, 3)
    assert decibels(tiled.numpy(), whole) > 40
    assert 30 < decibels(small.numpy(), whole) < decibels(tiled.numpy(), whole)


@torch.inference_mode()
def test_pictures_that_fit_a_tile_are_whole_and_encoding_always_is(
    embedded: Autoencoder, latents: torch.Tensor
) -> None:
    whole = embedded.decode(latents)
    before = embedded.encode(whole)
    (untiled,) = PixelDecoder(embedded, EngineSettings(tile=256))([latents[0]])
    assert np.abs(untiled.numpy().astype(int) - to_uint8(whole)[0]).max() <= 1
    embedded.decode_tiled(latents, 64)
    assert torch.equal(embedded.encode(whole), before)


@torch.inference_mode()
def test_mixed_sizes_come_back_in_order() -> None:
    _, autoencoder = tiny_decoder()
    generator = torch.Generator().manual_seed(0)
    sizes = [(8, 8), (4, 8), (8, 8), (4, 4), (8, 8), (4, 8)]
    several = [torch.randn(4, *size, generator=generator) for size in sizes]
    pictures = PixelDecoder(autoencoder, EngineSettings(pixel_batch=2))(several)
    for own, picture in zip(several, pictures, strict=True):
        alone = to_uint8(autoencoder.decode(own[None]))[0]
        assert np.abs(picture.numpy().astype(int) - alone).max() <= 1


@pytest.mark.parametrize(("tile", "message"), [(48, "a multiple of 32 pixels, got 48"), (0, "at least 1")])
def test_tiles_that_cannot_be_are_refused(tile: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        DecoderEngine(*tiny_decoder(), EngineSettings(tile=tile))


def test_an_engine_decodes_large_pictures_in_tiles() -> None:
    tokenizer, autoencoder = tiny_decoder()
    (whole,) = DecoderEngine(tokenizer, autoencoder).decode([make_request(1)])
    (tiled,) = DecoderEngine(tokenizer, autoencoder, EngineSettings(tile=32)).decode([make_request(1)])
    assert tiled.shape == whole.shape and not np.array_equal(tiled, whole)
