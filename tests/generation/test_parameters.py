"""Generation parameters and requests: defaults, limits, seeds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.tiny_model import SIZE, build_tiny_model
from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.errors import ModelFolderError, RequestError
from v2flow_engine.generation.image_request import MAX_SEED, ImageRequest, plan_requests
from v2flow_engine.generation.model_files import check_weight_files, model_digest
from v2flow_engine.generation.parameters import GenerationParameters


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A tiny model: 16 positions, 64 codes, two rounds by default."""
    return open_model(build_tiny_model(tmp_path_factory.mktemp("model")))


def test_defaults_are_the_models_and_none_overrides_nothing(folder: ModelFolder) -> None:
    assert GenerationParameters.resolve(folder) == GenerationParameters(SIZE, 3.0, 1.0, 0, 2, 3, 1.0, 1.0)
    changed = GenerationParameters.resolve(folder, rounds=5, guidance_scale=None, temperature=0, top_k=7)
    assert changed == GenerationParameters(SIZE, 3.0, 0.0, 7, 5, 3, 1.0, 1.0)
    assert GenerationParameters.resolve(folder, guidance_schedule="linear").guidance_schedule == "linear"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("size", "128x128", "'128x128' is not one of this model's: 64x64"),
        ("size", 64, "got 64"),
        ("guidance_scale", -0.1, "from 0 to 100, got -0.1"),
        ("guidance_scale", math.nan, "got nan"),
        ("guidance_scale", "3", "got '3'"),
        ("guidance_schedule", "cosine", "must be constant or linear, got 'cosine'"),
        ("guidance_schedule", ["linear"], "must be constant or linear"),
        ("negative_prompt", "blurry", "negative prompts are not supported"),
        ("temperature", -1.0, "got -1.0"),
        ("temperature", math.inf, "got inf"),
        ("top_k", -1, "from 0 to 64, got -1"),
        ("top_k", 65, "from 0 to 64, got 65"),
        ("rounds", 0, "from 1 to 16, got 0"),
        ("rounds", 17, "from 1 to 16, got 17"),
        ("rounds", True, "got True"),
        ("rounds", 2.0, "got 2.0"),
        ("flow_steps", 0, "from 1 to 1000, got 0"),
        ("flow_steps", 1001, "got 1001"),
        ("decoder_guidance", 101, "got 101"),
        ("decoder_temperature", 2.1, "from 0 to 2, got 2.1"),
        ("solver", "rk4", "must be euler or heun or dpm_solver_pp_2m or dopri5"),
        ("steps", 3, "unknown parameters \\['steps'\\]"),
    ],
)
def test_what_is_out_of_range_is_named(folder: ModelFolder, name: str, value: object, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        GenerationParameters.resolve(folder, **{name: value})


def test_every_picture_has_its_own_seed_in_order(folder: ModelFolder) -> None:
    parameters = GenerationParameters.resolve(folder)
    requests = plan_requests(["a", "b"], parameters, n=3, seed=10)
    assert [(r.index, r.prompt, r.seed) for r in requests] == [
        (0, "a", 10), (1, "a", 11), (2, "a", 12), (3, "b", 13), (4, "b", 14), (5, "b", 15),
    ]  # fmt: skip
    assert plan_requests("a", parameters, seed=3) == [ImageRequest(0, "a", 3, parameters)]


def test_no_seed_draws_a_fresh_one(folder: ModelFolder) -> None:
    parameters = GenerationParameters.resolve(folder)
    drawn = {plan_requests("a", parameters)[0].seed for _ in range(8)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([], {}, "no prompts"),
        ("caf\udce9", {}, "valid Unicode text"),
        ("a", {"n": 0}, "n must be a whole number from 1"),
        ("a", {"n": "2"}, "got '2'"),
        ("a", {"seed": -1}, "seed must be"),
        ("a", {"seed": MAX_SEED + 1}, "seed must be"),
        ("a", {"seed": MAX_SEED, "n": 2}, "seed of the last picture"),
    ],
)
def test_bad_calls_are_named(
    folder: ModelFolder, prompts: list[str], options: dict[str, object], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        plan_requests(prompts, GenerationParameters.resolve(folder), **options)


def test_a_row_is_the_request(folder: ModelFolder) -> None:
    parameters = GenerationParameters.resolve(folder, rounds=4)
    request = ImageRequest(7, "two cats", MAX_SEED, parameters)
    assert ImageRequest.from_row({**request.to_row(), "visual_token_ids": [1, 2]}) == request


def test_truncated_and_missing_weights_are_found_early(tmp_path: Path) -> None:
    folder = open_model(build_tiny_model(tmp_path / "model"))
    check_weight_files(folder)
    before = model_digest(folder)
    weights = folder.path / "visual_tokenizer" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert model_digest(folder) != before
    weights.write_bytes(whole[:-100])
    with pytest.raises(ModelFolderError, match=r"visual_tokenizer/model\.safetensors"):
        check_weight_files(folder)
    weights.unlink()
    with pytest.raises(ModelFolderError, match="visual_tokenizer: holds no safetensors file"):
        check_weight_files(folder)
