"""Adapters, their tokenizer and a recipe: a small folder that becomes the trained model with its base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.test_pretrained_llm import LORA, write_llms
from tests.training.test_training import command
from v2flow_engine import adapted_model
from v2flow_engine.adapted_model import ADAPTERS, ROWS, Recipe, adapter_products, merge, whole_model
from v2flow_engine.checkpoint import ModelFolder, load_weights, open_model
from v2flow_engine.cli import main
from v2flow_engine.errors import ModelFolderError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LLMs trained by adapters, runs/tied and runs/untied, from tied-base and untied-base."""
    root = write_llms(tmp_path_factory.mktemp("adapted"))
    for name in ("tied", "untied"):
        assert main(command(root, "llm", name, "--llm", str(root / name), *LORA)) == 0
    return root


def write(root: Path, name: str, out: str, *extra: str) -> list[str]:
    tokenizer = ["--visual-tokenizer", str(root / "runs" / "tokenizer" / "visual_tokenizer")]
    run = ["--run", str(root / "runs" / name), "--name", "squares", "--out", str(root / out)]
    return ["convert", "adapters", *run, *tokenizer, *extra]


def merged(root: Path, folder: str, base: str) -> ModelFolder:
    out = root / f"{folder}-whole"
    out.mkdir()
    recipe = Recipe(**json.loads((root / folder / "recipe.json").read_text()))
    merge(root / folder, root / base, root / "runs" / "vae" / "vae", out, recipe)
    return open_model(out)


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_it_becomes_what_was_trained(root: Path, name: str) -> None:
    assert main(write(root, name, f"{name}-small")) == 0
    whole = merged(root, f"{name}-small", f"{name}-base")
    trained = open_model(root / "runs" / name / "squares")
    assert whole.vocabulary == trained.vocabulary and whole.grids == trained.grids
    ids = torch.arange(0, whole.llm_config["vocab_size"], 7)[None]
    found, expected, before = (
        AutoModelForCausalLM.from_pretrained(path)(ids).logits
        for path in (whole.llm_dir, root / "runs" / name / "llm", root / name)
    )
    error = (found - expected).norm() / expected.norm()
    assert error < 0.01 < (before - expected).norm() / expected.norm()


def test_weaker_adapters_move_the_base_less(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write(root, "tied", "half", "--strength", "0.5", "--size", "64x64")) == 0
    assert main(write(root, "tied", "full", "--size", "64x64")) == 0
    half, full = (adapter_products(root / name / ADAPTERS) for name in ("half", "full"))
    assert half.keys() == full.keys()
    for name, product in full.items():
        assert product.any() and torch.equal(half[name], product / 2)
    half, full = (load_weights(root / name / ADAPTERS / ROWS) for name in ("half", "full"))
    assert all(torch.equal(half[name], full[name]) for name in full)
    assert main(write(root, "tied", "none", "--strength", "0")) == 2
    assert "--strength must be above 0 and finite, got 0" in capsys.readouterr().err


def test_a_size_left_out_takes_its_token_along(root: Path) -> None:
    assert main(write(root, "tied", "square", "--size", "64x64")) == 0
    whole, trained = merged(root, "square", "tied-base"), open_model(root / "runs" / "tied" / "squares")
    assert whole.grids == {"64x64": (4, 4)} and whole.config.default_size == "64x64"
    assert whole.vocabulary.visual_offset == trained.vocabulary.visual_offset - 1
    small, large = (
        AutoModelForCausalLM.from_pretrained(each.llm_dir).get_input_embeddings().weight
        for each in (whole, trained)
    )
    for of_small, of_large in (
        (slice(whole.vocabulary.visual_offset, None), slice(trained.vocabulary.visual_offset, None)),
        *(
            (whole.vocabulary.size_token_ids["64x64"], trained.vocabulary.size_token_ids["64x64"]),
            (whole.vocabulary.null_id, trained.vocabulary.null_id),
        ),
    ):
        torch.testing.assert_close(small[of_small], large[of_large], rtol=0.01, atol=1e-3)


def test_an_engine_sets_memory_aside_for_no_longer_sequences(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(write(root, "tied", "short", "--longest", "40")) == 0
    whole, base = merged(root, "short", "tied-base"), json.loads((root / "tied-base/config.json").read_text())
    assert whole.prompt_encoder.max_model_len == 40 < base["max_position_embeddings"]
    assert main(write(root, "tied", "long", "--longest", "1000000")) == 0
    longest = merged(root, "long", "tied-base").prompt_encoder.max_model_len
    assert longest == base["max_position_embeddings"]
    assert main(write(root, "tied", "shorter", "--longest", "23")) == 2
    assert "--longest must be at least 24 for pictures of these sizes, got 23" in capsys.readouterr().err


def test_it_is_put_together_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_model takes it for a model; the second time nothing is made. The base stands in for a download."""
    monkeypatch.setenv("V2FLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(adapted_model, "base_llm", lambda name: root / "tied-base")
    assert main(write(root, "tied", "once", "--size", "64x64", "64x32")) == 0
    # The recipe's autoencoder is an embedded model's, which these latents are not of.
    with pytest.raises(ModelFolderError, match="latent_channels 16 in vae"):
        open_model(root / "once")
    first = whole_model(root / "once")
    written = (first / "llm" / "model.safetensors").stat().st_mtime_ns
    assert whole_model(root / "once") == first and first.is_relative_to(tmp_path / "cache")
    assert (first / "llm" / "model.safetensors").stat().st_mtime_ns == written
    assert not [path for path in first.parent.iterdir() if path.name.endswith(".building")]


def test_what_does_not_fit_is_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("V2FLOW_CACHE", str(tmp_path / "cache"))
    assert main(write(root, "tied", "sizes", "--size", "96x96")) == 2
    assert "--size 96x96: the LLM has 64x64, 64x32" in capsys.readouterr().err
    assert main(write(root, "vae", "none")) == 2
    assert "lora.rank" in capsys.readouterr().err
    assert main(write(root, "untied", "broken")) == 0
    broken = root / "broken"
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelFolderError, match="that the base has not"):
        merge(
            broken,
            root / "tied-base",
            root / "runs/vae/vae",
            tmp_path / "out",
            Recipe("smollm2", "v2flow-emoji", {"64x64": [4, 4], "64x32": [2, 4]}),
        )
    recipe = json.loads((broken / "recipe.json").read_text())
    (broken / "recipe.json").write_text(json.dumps(recipe | {"base": "another"}))
    with pytest.raises(ModelFolderError, match="broken cannot be put together: unknown base LLM 'another'"):
        open_model(broken)
    assert not list((tmp_path / "cache" / "models").glob("*broken*[!.lock]"))
