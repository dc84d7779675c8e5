"""The Python API on a tiny model: what the arguments do, and that a picture depends on its seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_model import build_tiny_model
from v2flow_engine import GeneratedImage, Pipeline
from v2flow_engine.errors import ModelFolderError, OutputError, RequestError
from v2flow_engine.generation.image_request import plan_requests
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.images import read_metadata

PROMPTS = ["a red apple", "three yellow stars, 3d, on a dark blue background", "a cat", "two green frogs"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A loaded tiny model."""
    directory = build_tiny_model(tmp_path_factory.mktemp("model"))
    with Pipeline.from_pretrained(directory, device="cpu") as loaded:
        yield loaded


def pixels(picture: GeneratedImage) -> np.ndarray:
    """(H, W, 3) as int, for differences."""
    return np.asarray(picture.image).astype(int)


def test_a_picture_depends_on_its_own_seed_alone(pipeline: Pipeline) -> None:
    together = pipeline.generate(PROMPTS, n=2, seed=40)
    for index in (0, 3, 6):
        alone = pipeline.generate(PROMPTS[index // 2], seed=40 + index)[0]
        assert (alone.prompt, alone.seed) == (together[index].prompt, together[index].seed)
        assert np.abs(pixels(alone) - pixels(together[index])).max() <= 1


def test_tokens_are_equal_whatever_the_batch(pipeline: Pipeline) -> None:
    requests = plan_requests(PROMPTS, GenerationParameters.resolve(pipeline.folder), n=3, seed=5)
    asked = [request.token_request(pipeline.folder) for request in requests]
    together = pipeline.token_generator.generate(asked)
    assert [pipeline.token_generator.generate([one])[0] for one in asked] == together
    assert len({tuple(ids) for ids in together}) == len(together)


def test_seeds_prompts_and_parameters_are_recorded(pipeline: Pipeline) -> None:
    pictures = pipeline.generate(PROMPTS[:2], n=2, seed=7, temperature=0.5, rounds=3)
    assert [(p.prompt, p.seed) for p in pictures] == [
        (PROMPTS[0], 7), (PROMPTS[0], 8), (PROMPTS[1], 9), (PROMPTS[1], 10),
    ]  # fmt: skip
    for picture in pictures:
        assert picture.image.size == (64, 64)
        assert picture.parameters["model"] == "tiny"
        assert picture.parameters["temperature"] == 0.5
        assert picture.parameters["rounds"] == 3


def test_different_seeds_give_different_pictures(pipeline: Pipeline) -> None:
    first, second = pipeline.generate("a cat", n=2, seed=0)
    assert np.abs(pixels(first) - pixels(second)).mean() > 1


def test_a_drawn_seed_makes_the_picture_again(pipeline: Pipeline) -> None:
    drawn = pipeline.generate("a cat")[0]
    again = pipeline.generate("a cat", seed=drawn.seed)[0]
    assert np.array_equal(pixels(drawn), pixels(again))


@pytest.mark.parametrize(
    "changed",
    [{"guidance_scale": 9.0}, {"temperature": 0.2}, {"top_k": 2}, {"rounds": 8}, {"flow_steps": 9}],
    ids=str,
)
def test_every_parameter_reaches_its_engine(pipeline: Pipeline, changed: dict[str, float]) -> None:
    before = pipeline.generate("a cat", n=3, seed=3)
    after = pipeline.generate("a cat", n=3, seed=3, **changed)
    assert any(np.abs(pixels(a) - pixels(b)).max() > 1 for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ["picture.png", "picture.webp", "picture.jpg"])
def test_a_saved_picture_says_how_it_was_made(pipeline: Pipeline, tmp_path: Path, name: str) -> None:
    picture = pipeline.generate("a cat", seed=2)[0]
    picture.save(tmp_path / name)
    metadata = read_metadata(tmp_path / name)
    assert metadata is not None
    assert (metadata.prompt, metadata.seed, metadata.parameters) == ("a cat", 2, picture.parameters)


def test_saving_under_another_suffix_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"picture\.tiff"):
        pipeline.generate("a cat", seed=2)[0].save(tmp_path / "picture.tiff")
    assert list(tmp_path.iterdir()) == []


def test_a_bad_request_is_named_and_harms_nothing(pipeline: Pipeline) -> None:
    for prompts, options, said in [
        (["a cat", "  "], {}, "the prompt is empty"),
        (["a cat", "cat " * 500], {}, "this model takes at most"),
        (["a cat"], {"size": "512x512"}, "512x512"),
        (["a cat"], {"rounds": 99}, "rounds"),
        ([], {}, "no prompts"),
    ]:
        with pytest.raises(RequestError, match=said):
            pipeline.generate(prompts, **options)
    assert len(pipeline.generate("a cat", seed=0)) == 1


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="no-such-model"):
        Pipeline.from_pretrained("no-such-model")
