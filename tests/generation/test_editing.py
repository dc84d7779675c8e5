"""Pipeline.edit on a tiny model: the same as its parts by hand, and nothing outside the mask moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_model import SIZE, build_tiny_model
from tests.two_pass import TwoPass
from v2flow_engine import EditedImage, Pipeline
from v2flow_engine.config import VisualTokenizerConfig
from v2flow_engine.decoding.decoder import to_uint8
from v2flow_engine.decoding.request import image_noise
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.errors import RequestError
from v2flow_engine.fitting import fit_picture
from v2flow_engine.generation.editing import positions_in
from v2flow_engine.generation.image_tokenizer import ImageTokenizer

pytest.importorskip("vllm")

# Pixels (17..40, 20..35) lie in the cells (1..2, 1..2) of 16 x 16 pixels.
HOLE = np.zeros((64, 64), dtype=bool)
HOLE[17:41, 20:36] = True
CELLS = [5, 6, 9, 10]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    directory = build_tiny_model(tmp_path_factory.mktemp("model"))
    with Pipeline.from_pretrained(directory, device="cpu") as loaded:
        yield loaded


def noise(width: int = 64, height: int = 64) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask_of(hole: np.ndarray) -> Image.Image:
    return Image.fromarray(np.where(hole, 255, 0).astype(np.uint8))


def pixels(picture: EditedImage) -> np.ndarray:
    return np.asarray(picture.image).astype(int)


def test_an_edit_is_its_parts_by_hand(pipeline: Pipeline) -> None:
    """Greedy tokens of the two-pass loop with the others forced, latents of the plain sampler, pasted by hand."""
    image, folder = noise(), pipeline.folder
    made = pipeline.edit(image, mask_of(HOLE), "a red apple", seed=4, temperature=0.0, rounds=2)[0]
    tokenizer = ImageTokenizer(folder, pipeline.decoder)
    latents = tokenizer.latents_of([image])
    forced = folder.vocabulary.visual_token_ids(tokenizer.encode_latents(latents)[0].codes)
    forced = [None if cell in CELLS else token_id for cell, token_id in enumerate(forced)]
    prompt = folder.prompt_encoder.encode("a red apple", SIZE)
    ids = TwoPass(folder.llm_dir, folder.vocabulary).greedy(prompt, 16, 3.0, forced)
    own = image_noise(folder.visual_tokenizer_config, 4)
    redraw = torch.zeros(1, 16, dtype=torch.bool)
    redraw[0, CELLS] = True
    drawn = sample_latents(
        pipeline.decoder.tokenizer,
        folder.vocabulary.codes(ids, SIZE)[None],
        own.order[None],
        own.noise[None],
        rounds=2,
        flow_steps=3,
        known_latents=latents,
        redraw=redraw,
    )
    with torch.inference_mode():
        by_hand = to_uint8(pipeline.decoder.autoencoder.decode(drawn))[0].astype(int)
    by_hand = np.where(HOLE[..., None], by_hand, np.asarray(image))
    assert np.abs(pixels(made) - by_hand).max() <= 1
    assert np.array_equal(np.asarray(made.original), np.asarray(image))
    assert np.array_equal(np.asarray(made.mask), HOLE * 255)


def test_pixels_outside_the_mask_are_the_originals_own_unless_raw(pipeline: Pipeline) -> None:
    image = noise()
    first, second = pipeline.edit(image, mask_of(HOLE), "a cat", n=2, seed=7)
    for picture in (first, second):
        assert np.array_equal(pixels(picture)[~HOLE], np.asarray(image)[~HOLE])
        assert np.abs(pixels(picture)[HOLE] - np.asarray(image)[HOLE]).mean() > 5
    assert np.abs(pixels(first)[HOLE] - pixels(second)[HOLE]).max() > 1
    raw = pipeline.edit(image, mask_of(HOLE), "a cat", seed=7, raw=True)[0]
    assert np.abs(pixels(raw)[HOLE] - pixels(first)[HOLE]).max() <= 1
    assert np.abs(pixels(raw)[~HOLE] - pixels(first)[~HOLE]).max() > 1
    alone = pipeline.edit(image, mask_of(HOLE), "a cat", seed=8)[0]
    assert (alone.seed, alone.prompt) == (second.seed, "a cat")
    assert np.abs(pixels(alone) - pixels(second)).max() <= 1


def test_a_full_mask_is_generation(pipeline: Pipeline) -> None:
    edited = pipeline.edit(noise(), mask_of(HOLE | True), "two green frogs", seed=3)[0]
    generated = pipeline.generate("two green frogs", seed=3)[0]
    assert np.array_equal(np.asarray(edited.image), np.asarray(generated.image))


def test_a_large_image_and_its_transparent_parts(pipeline: Pipeline) -> None:
    """Three times the size and wider than high: image and mask are cropped alike."""
    hole = np.zeros((192, 300), dtype=bool)
    hole[:, 54:246] = np.repeat(np.repeat(HOLE, 3, axis=0), 3, axis=1)
    image = noise(300, 192)
    image.putalpha(Image.fromarray(np.where(hole, 0, 255).astype(np.uint8)))
    made = pipeline.edit(image, None, "a cat", seed=1)[0]
    assert np.array_equal(np.asarray(made.mask), HOLE * 255)
    expected = np.asarray(fit_picture(noise(300, 192), SIZE))
    far = ~HOLE
    far[13:45, 16:40] = False  # nearer, the resampling filter sees the ground under the hole
    assert np.array_equal(pixels(made)[far], expected[far])


def test_rounds_are_at_most_the_positions_to_draw(pipeline: Pipeline) -> None:
    one = np.zeros((64, 64), dtype=bool)
    one[0, 0] = True
    made = pipeline.edit(noise(), mask_of(one), "a cat", seed=1, rounds=9)[0]
    assert made.parameters["rounds"] == 1
    assert np.array_equal(pixels(made)[~one], np.asarray(noise())[~one])


def test_mistakes_are_named(pipeline: Pipeline) -> None:
    image, top = noise(64, 256), np.zeros((256, 64), dtype=bool)
    top[:20] = True
    for options, message in [
        ({"mask": mask_of(HOLE)}, "the image's size, 64x256, got 64x64"),
        ({"mask": None}, "expected a mask"),
        ({"mask": mask_of(top & False)}, "the mask is empty"),
        ({"mask": mask_of(top)}, "nothing of it is left once fitted to 64x64 by crop"),
        ({"mask": mask_of(~top), "prompt": " "}, "the prompt is empty"),
        ({"mask": mask_of(~top), "prompt": ["a cat"]}, "takes one prompt, got list"),
        ({"mask": mask_of(~top), "rounds": 17}, "rounds"),
        ({"mask": mask_of(~top), "n": 0}, "n must be"),
        ({"mask": mask_of(~top), "fit": "squeeze"}, "fit must be"),
    ]:
        with pytest.raises(RequestError, match=message):
            pipeline.edit(image, **{"prompt": "a cat", **options})


@pytest.mark.parametrize(
    ("patch", "downsample", "expected"),
    [(1, 2, [[0, 0, 1, 1], [0, 0, 1, 1]]), (2, 2, [[0, 1]]), (2, 1, [[1]])],
)
def test_positions_that_have_a_part_in_a_cell(
    pipeline: Pipeline, patch: int, downsample: int, expected: list[list[int]]
) -> None:
    config: VisualTokenizerConfig = dataclasses.replace(
        pipeline.folder.visual_tokenizer_config, patch_size=patch, downsample=downsample
    )
    cells = np.array([[False, True], [False, False]]) if downsample == 1 else np.array([[False, True]])
    assert positions_in(config, cells).int().tolist() == expected
