"""Every stage of the visual tokenizer against what the reference implementation computed (tests/golden)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from v2flow_engine.errors import ModelFolderError
from v2flow_engine.evaluation.parity import run_parity
from v2flow_engine.evaluation.parity_fixture import Fixture, load_fixture
from v2flow_engine.models.reference_keys import RENAMED, build_from_reference, our_key, reference_key

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ["linear_flow", "condot", "vocabulary"]


@pytest.fixture(scope="module", params=NAMES)
def fixture(request: pytest.FixtureRequest) -> Fixture:
    return load_fixture(GOLDEN / f"{request.param}.json")


def test_every_stage_equals_the_reference(fixture: Fixture) -> None:
    differences = run_parity(fixture, tolerance=1e-4, sampling_tolerance=1e-3)
    assert [each for each in differences if not each.ok] == []
    compared = {each.tensor for each in differences}
    vocabulary = {"soft_tokens", "llm_space_tokens"} if fixture.name == "vocabulary" else set()
    assert compared == vocabulary | {
        "resampler_out",
        "indices",
        "vq_embeddings",
        "condition_tokens",
        "velocity_out",
        "latents_out",
    }


@torch.inference_mode()
def test_stages_in_one_go_give_the_codes_of_the_reference(fixture: Fixture) -> None:
    assert torch.equal(fixture.tokenizer.encode(fixture.tensors["latents_in"]), fixture.tensors["indices"])


def test_keys_are_renamed_there_and_back(fixture: Fixture) -> None:
    keys = list(fixture.tokenizer.state_dict())
    assert [our_key(reference_key(key)) for key in keys] == keys
    assert all(any(key.startswith(p) for key in map(reference_key, keys)) for p in RENAMED)


def test_what_does_not_fit_is_named_as_the_reference_names_it(fixture: Fixture) -> None:
    weights = {
        key: value
        for part in GOLDEN.glob(f"{fixture.name}.weights-*.safetensors")
        for key, value in load_file(str(part)).items()
    }
    del weights["flowloss.net.input_proj.bias"]
    weights["flowloss.net.extra"] = torch.zeros(1)
    weights["z_proj.bias"] = torch.zeros(3)
    with pytest.raises(ModelFolderError) as raised:
        build_from_reference(fixture.tokenizer.config, weights, "FILE")
    assert "FILE" in str(raised.value)
    assert "missing flowloss.net.input_proj.bias" in str(raised.value)
    assert "unexpected flowloss.net.extra" in str(raised.value)
    assert "z_proj.bias (3,) for (64,)" in str(raised.value)
