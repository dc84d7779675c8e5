"""`v2flow convert official` on checkpoints made of the golden weights: what comes out gives the golden latents."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.official.conftest import GOLDEN, golden_options, golden_weights, write_checkpoint
from v2flow_engine import cli
from v2flow_engine.checkpoint import TokenizerFolder, read_visual_tokenizer
from v2flow_engine.config import load_json
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.evaluation.parity import compare, noise_by_position
from v2flow_engine.evaluation.parity_fixture import load_fixture

NAMES = ["linear_flow", "condot", "vocabulary"]


def convert(out: Path, checkpoint: Path, *options: str | Path) -> int:
    """Run the command."""
    return cli.main(
        ["convert", "official", "--checkpoint", str(checkpoint), "--out", str(out), *map(str, options)]
    )


def options_file(folder: Path, name: str, **changes) -> Path:
    """--config for a golden model."""
    path = folder / "options.json"
    path.write_text(json.dumps(golden_options(name) | changes))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_folder_gives_the_golden_latents(
    name: str, tmp_path: Path, vae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint-last.pth", name)
    out = tmp_path / "out"
    assert convert(out, checkpoint, "--config", options_file(tmp_path, name), "--vae", vae) == 0

    said = capsys.readouterr().out
    assert "model_ema of" in said and "downsampler.* -> resampler.*" in said
    assert "left     class_emb.weight: the reference never reads it" in said
    assert not any("class_emb" in key for key in load_file(out / "visual_tokenizer" / "model.safetensors"))
    assert "does not generate" in said and not (out / "llm").exists()

    folder, fixture = TokenizerFolder.open(out), load_fixture(GOLDEN / f"{name}.json")
    assert folder.config.default_size == "64x64"
    tokenizer = folder.load_visual_tokenizer(with_vocabulary=True)
    latents = sample_latents(
        tokenizer,
        fixture.tensors["indices"],
        fixture.tensors["orders"],
        noise_by_position(fixture),
        rounds=folder.defaults.rounds,
        flow_steps=folder.defaults.flow_steps,
        guidance_scale=folder.defaults.decoder_guidance,
    )
    assert compare("latents_out", latents, fixture.tensors["latents_out"], tolerance=1e-3).ok
    with torch.inference_mode():
        assert torch.equal(tokenizer.encode(fixture.tensors["latents_in"]), fixture.tensors["indices"])


def test_a_converted_folder_makes_pictures_of_pictures(tmp_path: Path, vae: Path) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "checkpoint.pth", "vocabulary", args=golden_options("vocabulary")
    )
    assert convert(tmp_path / "out", checkpoint, "--vae", vae) == 0  # the options come from the checkpoint
    folder = TokenizerFolder.open(tmp_path / "out")
    with torch.inference_mode():
        latents = folder.load_autoencoder().encode(torch.zeros(1, 3, 64, 64))
        codes = folder.load_visual_tokenizer(with_vocabulary=True).encode(latents)
    (picture,) = Decoder.from_folder(folder).decode([DecodeRequest(codes[0], seed=0, size="64x64")])
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8


def test_the_guidance_of_the_reference_is_a_setting(tmp_path: Path) -> None:
    for name in ("linear_flow", "condot"):
        checkpoint = write_checkpoint(tmp_path / "checkpoint.pth", name)
        assert convert(tmp_path / name, checkpoint, "--config", options_file(tmp_path, name)) == 0
    linear, condot = (
        (
            load_json(tmp_path / n / "config.json"),
            load_json(tmp_path / n / "visual_tokenizer" / "config.json"),
        )
        for n in ("linear_flow", "condot")
    )
    assert linear[0]["defaults"]["decoder_guidance"] == 4.5
    assert linear[1]["flow"]["unconditional"] == "null_condition"
    assert condot[0]["defaults"]["decoder_guidance"] == 2.9
    assert (condot[1]["flow"]["guidance_schedule"], condot[1]["flow"]["solver"]) == ("linear", "dopri5")


def test_weights_chooses_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint.pth", "condot")
    config = options_file(tmp_path, "condot")
    for which, shift in (("ema", 0), ("model", 1)):
        assert convert(tmp_path / which, checkpoint, "--config", config, "--weights", which) == 0
        tokenizer = read_visual_tokenizer(tmp_path / which / "visual_tokenizer")
        assert torch.equal(tokenizer.null_condition, golden_weights("condot")["fake_latent"] + shift)
    assert "model of" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_safetensors_and_a_vocabulary_of_its_own(kind: str, tmp_path: Path) -> None:
    weights = golden_weights("vocabulary")
    embedding = weights.pop("llm_embed_tokens")
    save_file(weights, tmp_path / "weights.safetensors")
    if kind == "pth":
        torch.save(embedding, tmp_path / "llm.pth")
    else:
        save_file(
            {"model.embed_tokens.weight": embedding, "model.norm": embedding[0].clone()},
            tmp_path / "llm.safetensors",
        )
    config = options_file(tmp_path, "vocabulary")
    files = ["--config", config, "--llm-vocabulary", tmp_path / f"llm.{kind}"]
    assert convert(tmp_path / "out", tmp_path / "weights.safetensors", *files) == 0
    written = load_file(tmp_path / "out" / "visual_tokenizer" / "vocabulary.safetensors")
    assert torch.equal(written["embedding"], embedding)


class Elsewhere:
    """What no checkpoint should hold."""


def test_refusals_name_what_came_and_leave_nothing(
    tmp_path: Path, vae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def refused(checkpoint: Path, *options: str | Path) -> str:
        assert convert(out, checkpoint, *options) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and not out.exists()
        assert not list(tmp_path.glob("*.building"))
        return captured.err

    weights, config = golden_weights("linear_flow"), options_file(tmp_path, "linear_flow")
    good = write_checkpoint(tmp_path / "good.pth", "linear_flow")
    path = tmp_path / "bad.pth"
    torch.save(
        {"model_ema": {k: v for k, v in weights.items() if k != "z_proj.bias"} | {"x.y": torch.ones(1)}}, path
    )
    said = refused(path, "--config", config)
    assert "missing z_proj.bias" in said and "unexpected x.y" in said
    deeper = tmp_path / "deeper.json"
    deeper.write_text(json.dumps(golden_options("linear_flow") | {"decoder_depth": 3}))
    assert "missing decoder_blocks.2.attn.proj.bias, " in refused(good, "--config", deeper)
    torch.save({"model_ema": weights, "args": Elsewhere()}, path)
    assert "Elsewhere" in refused(path, "--config", config)
    torch.save(weights, path)
    assert "expected the weights under 'model_ema'" in refused(path, "--config", config)
    path.write_bytes(b"no checkpoint")
    assert "bad.pth" in refused(path, "--config", config)
    assert "no such file" in refused(tmp_path / "none.pth", "--config", config)
    assert "--config is needed" in refused(good)
    save_file({"embed_tokens": torch.ones(96, 48)}, tmp_path / "llm.safetensors")
    vocabulary = ["--llm-vocabulary", tmp_path / "llm.safetensors"]
    assert "visual_vocabulary is false" in refused(good, "--config", config, *vocabulary)
    other = write_checkpoint(tmp_path / "vocabulary.pth", "vocabulary")
    said = refused(other, "--config", options_file(tmp_path, "vocabulary"), *vocabulary)
    assert "is not what the checkpoint was trained with" in said
    scaled = options_file(tmp_path, "linear_flow", scaling_factor=0.41407)
    assert "scaling_factor 1.0, expected 0.41407" in refused(good, "--config", scaled, "--vae", vae)


def test_a_folder_with_something_in_it_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("here")
    checkpoint = write_checkpoint(tmp_path / "checkpoint.pth", "condot")
    assert convert(tmp_path / "out", checkpoint, "--config", options_file(tmp_path, "condot")) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine").read_text() == "here"
