"""`v2flow parity` as a user runs it: what passes, what fails, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from v2flow_engine import cli
from v2flow_engine.config import from_dict
from v2flow_engine.evaluation.parity import compare, stages
from v2flow_engine.evaluation.parity_fixture import Fixture, FixtureShape, expected_axes
from v2flow_engine.models.reference_keys import CODEBOOK, VOCABULARY, build_from_reference, reference_key
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The smallest fixture with its weights in one file, to be changed."""
    for kind in ("json", "tensors.safetensors"):
        (tmp_path / f"linear_flow.{kind}").write_bytes((GOLDEN / f"linear_flow.{kind}").read_bytes())
    weights = {
        k: v for n in (1, 2) for k, v in load_file(GOLDEN / f"linear_flow.weights-{n}.safetensors").items()
    }
    save_file(weights, tmp_path / "linear_flow.weights.safetensors")
    return tmp_path / "linear_flow.json"


def change(path: Path, tensor: str, value: torch.Tensor | None) -> None:
    """Replace a tensor in a safetensors file, or remove it."""
    tensors = load_file(path)
    del tensors[tensor]
    save_file(tensors if value is None else tensors | {tensor: value}, path)


@torch.inference_mode()
def write_fixture(path: Path, flow_method: str) -> Path:
    """A fixture of this package's own making: patches of 2 x 2, three images, three rounds, a vocabulary."""
    keys = "width encoder_depth decoder_depth num_heads velocity_depth velocity_width resampler_hidden"
    keys += " resampler_depth resampler_mlp_depth codebook_size projector_depth patch_size batch num_iter"
    values = dict(zip(keys.split(), (24, 1, 2, 3, 1, 16, 8, 1, 3, 20, 2, 2, 3, 3), strict=True))
    values |= {
        "grid": 4,
        "latent_channels": 4,
        "flow_method": flow_method,
        "cfg": 2,
        "cfg_schedule": "linear",
    }
    shape = from_dict(FixtureShape, values)
    config = shape.tokenizer_config(code_dim=10, text_vocab_size=30)
    generator = torch.Generator().manual_seed(0)
    tokenizer = VisualTokenizer(config).eval()
    weights = {
        reference_key(k): torch.randn(v.shape, generator=generator) * 0.1
        for k, v in tokenizer.state_dict().items()
    }
    weights[CODEBOOK] = weights[CODEBOOK][None]
    weights |= {VOCABULARY: torch.randn(30, 10, generator=generator), "class_emb.weight": torch.zeros(2, 2)}
    given = {
        name: torch.randn([5 if axis == "M" else axis for axis in axes], generator=generator)
        for name, axes in expected_axes(shape, config).items()
    }
    given["orders"] = torch.stack([torch.randperm(4, generator=generator) for _ in range(3)])
    given["indices"] = torch.randint(20, (3, 16), generator=generator)
    tokenizer = build_from_reference(config, weights, "weights").tokenizer
    fixture = Fixture("other", shape, tokenizer, given)
    for name, output in stages(fixture):  # each is the input of a later one
        given[name] = output
    path.write_text(json.dumps(values))
    save_file(weights, path.with_suffix(".weights.safetensors"))
    save_file({k: v.contiguous() for k, v in given.items()}, path.with_suffix(".tensors.safetensors"))
    return path


def result(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict]:
    """The table and the JSON document of a run."""
    table, _, document = capsys.readouterr().out.rstrip().rpartition("\n")
    return table, json.loads(document)


def test_the_repository_s_fixture_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["parity", str(GOLDEN / "condot.json")]) == 0
    table, document = result(capsys)
    assert document["ok"] and document["tensors"]["latents_out"]["max_rel_error"] < 1e-3
    assert "2x8x8x8" in table and "FAIL" not in table


def test_a_perturbed_weight_fails(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy.with_suffix(".weights.safetensors")
    bias = load_file(path)["flowloss.net.final_layer.linear.bias"]
    change(path, "flowloss.net.final_layer.linear.bias", bias + 0.01)
    assert cli.main(["parity", str(copy)]) == 1
    table, document = result(capsys)
    failed = [name for name, each in document["tensors"].items() if not each["ok"]]
    assert not document["ok"] and failed == ["velocity_out", "latents_out"]
    assert table.count("FAIL") == 2


def test_the_tolerances_decide(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy.with_suffix(".tensors.safetensors")
    given = load_file(path)
    change(path, "latents_out", given["latents_out"] * 1.01)
    change(path, "velocity_out", given["velocity_out"] * (1 + 5e-5))
    assert cli.main(["parity", str(copy)]) == 1
    assert cli.main(["parity", str(copy), "--sampling-tolerance", "0.02"]) == 0
    assert cli.main(["parity", str(copy), "--sampling-tolerance", "0.02", "--tolerance", "1e-5"]) == 1


@pytest.mark.parametrize("flow_method", ["linear_flow", "CondOT"])
def test_a_fixture_of_another_shape(
    flow_method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_fixture(tmp_path / "other.json", flow_method)
    assert cli.main(["parity", str(path)]) == 0
    _, document = result(capsys)
    assert document["tensors"]["latents_out"]["shape"] == [3, 4, 4, 4]


def test_codes_must_be_equal_and_nan_is_no_match() -> None:
    codes = torch.tensor([[1000, 2000]])
    assert not compare("indices", codes + 1, codes, tolerance=1.0).ok
    assert compare("indices", codes, codes, tolerance=0.0).ok
    assert not compare("x", torch.tensor([float("nan")]), torch.ones(1), tolerance=1.0).ok
    assert compare("x", torch.tensor([3.0, 1.0]), torch.tensor([4.0, 1.0]), tolerance=1.0).relative == 0.25


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda p: p.unlink(), "linear_flow.json: no such file"),
        (lambda p: p.write_text("{"), "not valid JSON"),
        (lambda p: p.write_text(json.dumps(json.loads(p.read_text()) | {"grid": "8"})), "expected int"),
        (lambda p: p.write_text(json.dumps(json.loads(p.read_text()) | {"num_heads": 0})), "num_heads"),
        (lambda p: p.write_text(json.dumps({"grid": 8})), "missing flow_method"),
        (
            lambda p: p.write_text(json.dumps(json.loads(p.read_text()) | {"grid": 4})),
            "decoder_pos_embed_learned",
        ),
        (
            lambda p: p.write_text(json.dumps(json.loads(p.read_text()) | {"num_iter": 5})),
            "noise_0 has shape",
        ),
        (lambda p: p.with_suffix(".weights.safetensors").unlink(), "weights.safetensors: no such file"),
        (lambda p: p.with_suffix(".tensors.safetensors").unlink(), "tensors.safetensors: no such file"),
        (lambda p: change(p.with_suffix(".weights.safetensors"), "z_proj.bias", None), "missing z_proj.bias"),
        (lambda p: change(p.with_suffix(".tensors.safetensors"), "noise_2", None), "noise_2 is missing"),
        (
            lambda p: change(p.with_suffix(".tensors.safetensors"), "velocity_t", torch.zeros(4)),
            "velocity_t has shape (4,), expected (5,)",
        ),
        (
            lambda p: change(p.with_suffix(".tensors.safetensors"), "orders", torch.zeros(2, 64).long()),
            "permutation of 64",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    copy: Path, damage, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy)
    assert cli.main(["parity", str(copy)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert expected in captured.err
