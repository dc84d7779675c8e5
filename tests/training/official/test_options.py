"""The reference's options -> configs of ours."""

import json
from pathlib import Path

import pytest

from v2flow_engine.errors import V2FlowError
from v2flow_engine.training.official.options import (
    TRAINING_ONLY,
    OfficialOptions,
    ResamplerSize,
    read_options,
)

FOUND = ResamplerSize(depth=4, mlp_depth=2, codebook_size=16384)


def build(**values) -> OfficialOptions:
    """Options over the reference's defaults."""
    return OfficialOptions(**values)


@pytest.mark.parametrize(
    ("model", "shape"),
    [("v2flow_base", (768, 12, 12)), ("v2flow_large", (1024, 16, 16)), ("huge", (1280, 20, 16))],
)
def test_presets(model: str, shape: tuple[int, int, int]) -> None:
    config = build(model=model).tokenizer_config(FOUND, None)
    assert (config.width, config.encoder_depth, config.num_heads) == shape
    assert config.decoder_depth == config.encoder_depth and config.code_dim == config.width
    assert config.latent_grid == (32, 32) and config.num_visual_tokens == config.num_positions == 1024
    assert (config.velocity_depth, config.velocity_width, config.resampler_hidden) == (8, 1536, 512)
    assert (config.resampler_depth, config.resampler_mlp_depth) == (4, 1)


def test_a_vocabulary_overrules_options_that_the_reference_then_ignores() -> None:
    options = build(downsampler_depth=1, visual_codebook_size=8, visual_vocabulary=True)
    config = options.tokenizer_config(FOUND, (32000, 4096))
    assert (config.resampler_depth, config.resampler_mlp_depth, config.codebook_size) == (4, 2, 16384)
    assert (config.text_vocab_size, config.code_dim) == (32000, 4096)


def test_each_method_keeps_its_own_way_of_sampling() -> None:
    linear, condot = build(flow_method="linear_flow", cfg=2.0), build(flow_method="CondOT", cfg=2.0)
    assert linear.flow().unconditional == "null_condition" and linear.flow().solver == "dpm_solver_pp_2m"
    assert linear.defaults().decoder_guidance == 4.5 and linear.defaults().flow_steps == 20
    assert condot.flow().unconditional == "transformer" and condot.flow().solver == "dopri5"
    assert condot.flow().guidance_schedule == "linear" and condot.defaults().decoder_guidance == 2.0
    assert build(cfg_schedule="constant").flow().guidance_schedule == "constant"
    assert build(flow_method="linear_flow", inner_cfg_scale=3.0).defaults().decoder_guidance == 3.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model": "v2flow_giant"}, "v2flow_base, v2flow_large, v2flow_huge"),
        ({"img_size": 1000}, "not divisible by vae_stride 32"),
        ({"img_size": 512, "buffer_size": 1024}, "must be the number of visual tokens, 256"),
        ({"flow_method": "vp"}, "linear_flow, CondOT or regression"),
        ({"cfg_schedule": "cosine"}, "constant or linear"),
        ({"encoder_embed_dim": 64}, "encoder_embed_dim and decoder_embed_dim must be equal, got 64 and 1024"),
        ({"mlp_ratio": 2.0}, "mlp_ratio must be 4"),
        ({"flowloss_d": 0}, "flowloss_d must be at least 1"),
    ],
)
def test_contradictions_are_named(values: dict, expected: str) -> None:
    with pytest.raises(V2FlowError, match=expected):
        build(**values).tokenizer_config(FOUND, None)


def test_a_file_comes_before_what_the_checkpoint_keeps(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("img_size: 512\nlr: 1.0e-4\n")
    kept = {"img_size": 256, "model": "v2flow_base", "a_fork_s_option": 1}
    assert read_options(path, kept) == build(img_size=512, model="v2flow_base")
    assert read_options(None, kept) == build(img_size=256, model="v2flow_base")
    path.write_text(json.dumps(dict.fromkeys(TRAINING_ONLY)))
    assert read_options(path, {}) == build()


def test_unknown_options_and_none_at_all_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("flowmethod: CondOT")
    with pytest.raises(V2FlowError, match="flowmethod"):
        read_options(path, {})
    path.write_text("visual_vocabulary: 'True'")
    with pytest.raises(V2FlowError, match="expected bool"):
        read_options(path, {})
    with pytest.raises(V2FlowError, match="--config is needed"):
        read_options(None, {})
