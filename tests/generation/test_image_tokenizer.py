"""The Python API of the tokenizer on a tiny model: its own parts, each picture's own seed, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.tiny_model import SIZE, build_tiny_model
from v2flow_engine import ImageCodes, ImageTokenizer
from v2flow_engine.checkpoint import open_model
from v2flow_engine.config import MAX_SEED
from v2flow_engine.decoding.decoder import to_uint8
from v2flow_engine.errors import ModelFolderError, RequestError
from v2flow_engine.fitting import fit_picture
from v2flow_engine.generation.image_tokenizer import to_pixels


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ImageTokenizer:
    """Of the tiny model."""
    return ImageTokenizer.from_pretrained(
        build_tiny_model(tmp_path_factory.mktemp("model") / "tiny"), device="cpu"
    )


def noise(number: int, width: int = 64, height: int = 64) -> list[Image.Image]:
    """Pictures of noise."""
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(each) for each in rng.integers(0, 256, (number, height, width, 3), dtype=np.uint8)
    ]


def distance(first: Image.Image, second: Image.Image) -> int:
    """The largest difference of a pixel."""
    return int(np.abs(np.asarray(first).astype(int) - np.asarray(second)).max())


def test_pixels_and_pictures_are_inverse() -> None:
    pictures = noise(3, width=16, height=8)
    assert to_pixels(pictures).shape == (3, 3, 8, 16)
    assert np.array_equal(to_uint8(to_pixels(pictures)), np.stack([np.asarray(each) for each in pictures]))


def test_codes_are_those_of_the_models_own_parts(tokenizer: ImageTokenizer) -> None:
    pictures = noise(18)  # more than one batch
    folder = tokenizer.folder
    with torch.inference_mode():
        latents = folder.load_autoencoder().encode(to_pixels(pictures))
        expected = folder.load_visual_tokenizer(with_vocabulary=True).encode(latents)
    encoded = tokenizer.encode(pictures)
    assert {each.size for each in encoded} == {SIZE}
    assert torch.equal(torch.stack([each.codes for each in encoded]), expected)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_images_are_fitted_before_they_are_encoded(tokenizer: ImageTokenizer, fit: str) -> None:
    wide = noise(1, width=150, height=40)[0]
    by_hand = tokenizer.encode(fit_picture(wide, SIZE, fit))[0]
    assert torch.equal(tokenizer.encode(wide, fit=fit)[0].codes, by_hand.codes)
    assert tokenizer.fit(wide, fit=fit)[0].size == (64, 64)


def test_the_pad_colour_lies_under_what_is_transparent(tokenizer: ImageTokenizer) -> None:
    clear = Image.new("RGBA", (32, 64), (0, 0, 0, 0))
    for pad_color in (None, (10, 200, 30)):
        fitted = tokenizer.fit(clear, fit="pad", pad_color=pad_color)[0]
        assert fitted.getcolors() == [(64 * 64, pad_color or (255, 255, 255))]


def test_reconstruction_is_encoding_and_decoding(tokenizer: ImageTokenizer) -> None:
    pictures = noise(18)
    made = tokenizer.reconstruct(pictures, seeds=5)
    assert [each.seed for each in made] == list(range(5, 23))
    decoded = tokenizer.decode(tokenizer.encode(pictures), seeds=5)
    assert all(distance(each.by_tokenizer, alone) == 0 for each, alone in zip(made, decoded, strict=True))
    assert all(distance(each.original, own) == 0 for each, own in zip(made, pictures, strict=True))
    autoencoder = tokenizer.folder.load_autoencoder()
    with torch.inference_mode():
        plain = to_uint8(autoencoder.decode(autoencoder.encode(to_pixels(pictures[:2]))))
    assert distance(made[1].by_autoencoder, Image.fromarray(plain[1])) <= 1


def test_a_picture_depends_on_its_own_seed_and_not_on_its_batch(tokenizer: ImageTokenizer) -> None:
    pictures = noise(5)
    together = tokenizer.reconstruct(pictures, seeds=[9, 3, 7, 3, 0])
    small = ImageTokenizer(tokenizer.folder, tokenizer.decoder, batch_size=2)
    for each, other in zip(together, small.reconstruct(pictures, seeds=[9, 3, 7, 3, 0]), strict=True):
        assert torch.equal(each.codes.codes, other.codes.codes)
        assert distance(each.by_tokenizer, other.by_tokenizer) <= 1
    alone = tokenizer.reconstruct(pictures[2], seeds=7)[0]
    assert distance(alone.by_tokenizer, together[2].by_tokenizer) <= 1
    assert distance(tokenizer.reconstruct(pictures[2], seeds=8)[0].by_tokenizer, alone.by_tokenizer) > 1


def test_variations_are_the_same_codes_under_other_noise(tokenizer: ImageTokenizer) -> None:
    picture = noise(1)[0]
    made = tokenizer.variations(picture, n=3, seed=4)
    assert all(distance(made[i], made[j]) > 1 for i, j in ((0, 1), (0, 2), (1, 2)))
    codes = tokenizer.encode(picture) * 3
    assert [each.tobytes() for each in tokenizer.decode(codes, seeds=[4, 5, 6])] == [
        m.tobytes() for m in made
    ]
    assert distance(tokenizer.reconstruct(picture, seeds=4)[0].by_tokenizer, made[0]) <= 1


def test_settings_reach_the_decoder_and_default_to_the_models_own(tokenizer: ImageTokenizer) -> None:
    codes = tokenizer.encode(noise(1))
    own = tokenizer.decode(codes)[0]
    defaults = tokenizer.folder.defaults
    assert own == tokenizer.decode(codes, rounds=defaults.rounds, flow_steps=defaults.flow_steps)[0]
    for changed in (
        {"rounds": 5},
        {"flow_steps": 9},
        {"decoder_guidance": 3.0},
        {"decoder_temperature": 0.3},
        {"solver": "euler"},
    ):
        assert distance(tokenizer.decode(codes, **changed)[0], own) > 1
    still = [tokenizer.decode(codes, seeds=seed, rounds=1, decoder_temperature=0.0)[0] for seed in (0, 1)]
    assert distance(*still) <= 1  # one round without noise: nothing of the seed is left
    described = tokenizer.describe(rounds=5)
    assert (described["rounds"], described["flow_steps"]) == (5, defaults.flow_steps)
    assert described["model"] == "tiny"


def test_the_codebook_is_told_from_another(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    again = ImageTokenizer.from_pretrained(build_tiny_model(tmp_path / "same"), device="cpu")
    other = ImageTokenizer.from_folder(open_model(build_tiny_model(tmp_path / "other", seed=1)), device="cpu")
    assert tokenizer.codebook_digest == again.codebook_digest != other.codebook_digest


def test_mistakes_are_named(tokenizer: ImageTokenizer) -> None:
    picture, codes = noise(1)[0], ImageCodes(torch.zeros(16, dtype=torch.int64), SIZE)
    mistakes = {
        r"size '48x48' is not one of this model's": lambda: tokenizer.encode(picture, size="48x48"),
        r"fit must be one of crop, pad, stretch, got 'squeeze'": lambda: tokenizer.fit(
            picture, fit="squeeze"
        ),
        r"expected a PIL image, got ndarray": lambda: tokenizer.encode([np.asarray(picture)]),
        r"expected a seed for each of 1 pictures, got 2": lambda: tokenizer.decode(codes, seeds=[1, 2]),
        r"seed must be a whole number": lambda: tokenizer.reconstruct(picture, seeds=-1),
        r"seed of the last picture": lambda: tokenizer.variations(picture, seed=MAX_SEED),
        r"n must be a whole number from 1": lambda: tokenizer.variations(picture, n=0),
        r"rounds must be a whole number from 1 to 16": lambda: tokenizer.decode(codes, rounds=17),
        r"has 16 codes, got shape": lambda: tokenizer.decode(ImageCodes(codes.codes[:9], SIZE)),
        r"codes must lie in \[0, 64\)": lambda: tokenizer.decode(ImageCodes(codes.codes + 64, SIZE)),
        r"batch_size must be a whole number from 1": lambda: ImageTokenizer(
            tokenizer.folder, tokenizer.decoder, batch_size=0
        ),
    }
    for expected, make in mistakes.items():
        with pytest.raises(RequestError, match=expected):
            make()
    with pytest.raises(ModelFolderError, match="no model 'nobody'"):
        ImageTokenizer.from_pretrained("nobody")


def test_a_folder_without_an_llm_encodes_and_decodes_all_the_same(
    tokenizer: ImageTokenizer, tmp_path: Path
) -> None:
    whole, bare = tokenizer, tmp_path / "tokenizer"
    shutil.copytree(whole.folder.path, bare, ignore=shutil.ignore_patterns("llm"))
    rows = {"embedding": whole.folder.load_text_embedding()}
    save_file(rows, str(bare / "visual_tokenizer" / "vocabulary.safetensors"))
    alone = ImageTokenizer.from_pretrained(bare, device="cpu")
    [ours], [theirs] = alone.encode(noise(1)), whole.encode(noise(1))
    assert torch.equal(ours.codes, theirs.codes)
    assert alone.decode(ours, seeds=3)[0].tobytes() == whole.decode(theirs, seeds=3)[0].tobytes()
    with pytest.raises(RequestError, match="size '32x32' is not one of this model's: 64x64"):
        alone.encode(noise(1), size="32x32")
