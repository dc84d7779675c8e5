"""Reconstruction goes through the model's own parts and depends on each picture's own seed."""

import numpy as np
import pytest
import torch

from tests.tiny_model import build_tiny_model
from v2flow_engine.checkpoint import open_model
from v2flow_engine.decoding.decoder import to_uint8
from v2flow_engine.evaluation.reconstruction import Reconstructor, to_pixels
from v2flow_engine.generation.parameters import GenerationParameters


@pytest.fixture(scope="module")
def reconstructor(tmp_path_factory: pytest.TempPathFactory) -> Reconstructor:
    """Of the tiny model."""
    folder = open_model(build_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))
    return Reconstructor(folder, "cpu", GenerationParameters.resolve(folder))


def random_pictures(number: int, side: int) -> list[np.ndarray]:
    """Noise, (side, side, 3) uint8 each."""
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (number, side, side, 3), dtype=np.uint8))


def test_pixels_and_bytes_are_inverse() -> None:
    pictures = random_pictures(3, 16)
    assert np.array_equal(to_uint8(to_pixels(pictures)), np.stack(pictures))


def test_pictures_come_to_the_size_of_the_model(reconstructor: Reconstructor) -> None:
    own, large = random_pictures(1, 64)[0], np.full((128, 128, 3), 77, np.uint8)
    assert reconstructor.resize(own) is own
    assert np.array_equal(reconstructor.resize(large), np.full((64, 64, 3), 77, np.uint8))


def test_both_ways_of_reconstruction(reconstructor: Reconstructor) -> None:
    pictures = random_pictures(18, reconstructor.side)  # more than one batch
    made = reconstructor.reconstruct(pictures, seed=5)
    assert len(made.by_autoencoder) == len(made.by_tokenizer) == 18
    assert made.codes.shape == (18, 16)
    with torch.inference_mode():
        latents = reconstructor.autoencoder.encode(to_pixels(pictures[:2]))
        decoded = to_uint8(reconstructor.autoencoder.decode(latents))
    assert np.abs(decoded[1].astype(int) - made.by_autoencoder[1]).max() <= 1
    assert torch.equal(reconstructor.encode(pictures), made.codes)


def test_a_reconstruction_depends_on_its_own_seed(reconstructor: Reconstructor) -> None:
    pictures = random_pictures(3, reconstructor.side)
    together = reconstructor.reconstruct(pictures, seed=5).by_tokenizer
    alone = reconstructor.reconstruct(pictures[2:], seed=7).by_tokenizer[0]
    other = reconstructor.reconstruct(pictures[2:], seed=8).by_tokenizer[0]
    assert np.abs(together[2].astype(int) - alone).max() <= 1
    assert not np.array_equal(alone, other)
