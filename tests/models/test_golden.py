"""Every stage of the visual tokenizer against what the reference implementation computed (tests/golden)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from v2flow_engine.config import FlowConfig, VisualTokenizerConfig
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.decoding.schedule import round_positions
from v2flow_engine.models.reference_keys import VOCABULARY, from_reference
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name: str) -> tuple[VisualTokenizer, dict, dict[str, torch.Tensor]]:
    shape = json.loads((GOLDEN / f"{name}.json").read_text())
    weights, _ = from_reference(
        {
            k: v
            for part in GOLDEN.glob(f"{name}.weights-*.safetensors")
            for k, v in load_file(str(part)).items()
        }
    )
    vocabulary = weights.pop(VOCABULARY, None)
    flow = FlowConfig(
        method=shape["flow_method"],
        unconditional="null_condition" if shape["flow_method"] == "linear_flow" else "transformer",
    )
    keys = [
        "latent_channels",
        "width",
        "encoder_depth",
        "decoder_depth",
        "num_heads",
        "velocity_depth",
        "velocity_width",
        "resampler_hidden",
        "resampler_depth",
        "resampler_mlp_depth",
        "codebook_size",
        "projector_depth",
    ]
    config = VisualTokenizerConfig(
        latent_grid=(shape["grid"], shape["grid"]),
        code_dim=weights["quantizer.codebook"].shape[1],
        text_vocab_size=None if vocabulary is None else vocabulary.shape[0],
        flow=flow,
        **{k: shape[k] for k in keys},
    )
    tokenizer = VisualTokenizer(config).eval()
    tokenizer.load_state_dict(weights)
    if vocabulary is not None:
        tokenizer.set_vocabulary(vocabulary)
    return tokenizer, shape, load_file(str(GOLDEN / f"{name}.tensors.safetensors"))


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("name", ["linear_flow", "condot", "vocabulary"])
@torch.inference_mode()
def test_stages_equal_the_reference(name: str) -> None:
    tokenizer, _, golden = load(name)
    assert relative_error(tokenizer.resampler(golden["latents_in"]), golden["resampler_out"]) < 1e-4
    if "llm_space_tokens" in golden:
        assert relative_error(tokenizer.llm_space(golden["latents_in"]), golden["llm_space_tokens"]) < 1e-4
    codes = tokenizer.encode(golden["latents_in"])
    assert torch.equal(codes, golden["indices"])
    assert relative_error(tokenizer.quantizer.lookup(codes), golden["vq_embeddings"]) < 1e-4
    assert relative_error(tokenizer.conditions(codes), golden["condition_tokens"]) < 1e-4
    output = tokenizer.velocity(golden["velocity_x"], golden["velocity_t"], golden["velocity_c"])
    assert relative_error(output, golden["velocity_out"]) < 1e-4


@pytest.mark.parametrize("name", ["linear_flow", "vocabulary"])
def test_sampling_equals_the_reference(name: str) -> None:
    tokenizer, shape, golden = load(name)
    noise = torch.zeros(shape["batch"], tokenizer.config.num_positions, tokenizer.config.token_channels)
    for i in range(shape["num_iter"]):
        rows = golden[f"noise_{i}"].chunk(shape["batch"])
        for image in range(shape["batch"]):
            noise[image, round_positions(golden["orders"][image], shape["num_iter"])[i]] = rows[image]
    latents = sample_latents(
        tokenizer,
        golden["indices"],
        golden["orders"],
        noise,
        rounds=shape["num_iter"],
        flow_steps=20,
        guidance_scale=shape["inner_cfg_scale"],
    )
    assert relative_error(latents, golden["latents_out"]) < 1e-3
