"""Counted operations of the decoder are those that torch's own counter sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.decoder_counts import count_flops
from benchmarks.decoder_work import make_requests
from tests.tiny_model import build_tiny_model
from v2flow_engine.checkpoint import TokenizerFolder, open_tokenizer
from v2flow_engine.config import load_json
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.errors import ModelFolderError, RequestError
from v2flow_engine.planning.autoencoder_cost import autoencoder_parameters, autoencoder_work
from v2flow_engine.planning.decoder_cost import DecoderShape
from v2flow_engine.planning.presets import DECODERS, F32C32

EFFICIENT_VIT = {
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_out_channels": (16, 16, 32),
    "decoder_block_out_channels": (16, 16, 32),
    "encoder_layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 2, 2),
    "decoder_block_types": ("ResBlock", "EfficientViTBlock", "EfficientViTBlock"),
    "encoder_qkv_multiscales": ((), (), ()),
    "decoder_qkv_multiscales": ((), (5,), (3, 5)),
    "upsample_block_type": "interpolate",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFolder:
    return open_tokenizer(build_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


def shape_of(folder: TokenizerFolder, **changes: Any) -> DecoderShape:
    config, defaults = folder.visual_tokenizer_config, folder.defaults
    values = {
        "grid": config.token_grid,
        "rounds": defaults.rounds,
        "flow_steps": defaults.flow_steps,
        "guidance": defaults.decoder_guidance,
        "solver": config.flow.solver,
    }
    return DecoderShape(config, load_json(folder.path / "vae" / "config.json"), **(values | changes))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("model", ["tiny", "v2flow-emoji"])
def test_the_decoder_is_counted_as_torch_counts_it(
    model: str, guidance: float, tiny: TokenizerFolder
) -> None:
    folder = tiny if model == "tiny" else open_tokenizer(model)
    shape = shape_of(folder, guidance=guidance)
    decoder = DecoderEngine.from_folder(folder)
    requests = make_requests(
        decoder.limits, folder.config.default_size, 2, shape.rounds, shape.flow_steps, guidance
    )
    decoder.decode(requests)  # what is computed once for all images
    counted = count_flops(decoder, decoder.decode, requests)
    work = shape.work()
    assert {name: each.flops for name, each in work.items()} == {name: counted[name] for name in work}


def test_smaller_pictures_other_rounds_and_two_evaluations_a_step(tiny: TokenizerFolder) -> None:
    decoder = DecoderEngine.from_folder(tiny)
    whole = make_requests(decoder.limits, "64x64", 2, 3, 2, 1.0)
    small = make_requests(decoder.limits, "32x64", 2, 3, 2, 1.0)
    decoder.decode([*whole, *small])
    shape = shape_of(tiny, rounds=3, flow_steps=2)
    assert (
        sum(each.flops for each in shape.work().values())
        == count_flops(decoder, decoder.decode, whole)["all"]
    )
    shape = shape_of(tiny, grid=(4, 2), rounds=3, flow_steps=2)
    assert (
        sum(each.flops for each in shape.work().values())
        == count_flops(decoder, decoder.decode, small)["all"]
    )
    heun = shape_of(tiny, solver="heun", flow_steps=2).work()
    assert heun == shape_of(tiny, solver="euler", flow_steps=4).work()


@pytest.mark.parametrize(
    ("config", "grid"), [(EFFICIENT_VIT, (2, 2)), (EFFICIENT_VIT, (6, 4)), (F32C32, (32, 32))]
)
def test_the_autoencoder_is_counted_as_torch_counts_it(config: dict[str, Any], grid: tuple[int, int]) -> None:
    with torch.device("meta"):
        net = AutoencoderDC(**config)
        latents = torch.zeros(1, net.config.latent_channels, *grid)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.decode(latents)
    assert autoencoder_work(config, grid).flops == counter.get_total_flops()
    kernels = sum(p.numel() for p in net.decoder.parameters() if p.ndim > 1)
    assert autoencoder_parameters(config) == kernels


def test_parameters_are_those_of_the_model(tiny: TokenizerFolder) -> None:
    decoder = Decoder.from_folder(tiny)
    tokenizer = decoder.tokenizer
    parts = (tokenizer.masked_transformer, tokenizer.velocity, tokenizer.projector, tokenizer.quantizer)
    modules = [m for part in (*parts, decoder.autoencoder.net.decoder) for m in part.modules()]
    matrices = sum(
        m.weight.numel() for m in modules if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)
    ) + sum(p.numel() for p in tokenizer.quantizer.state_dict().values() if p.ndim == 2)
    assert shape_of(tiny).parameters() == matrices


def test_the_named_decoders_are_the_references() -> None:
    large = DECODERS["large"]
    assert (large.grid, large.num_positions) == ((32, 32), 1024)
    assert large.tokenizer.width == 1024 and large.tokenizer.velocity_width == 1536
    work = large.work()
    base = DECODERS["base"].work()
    assert base["masked transformer"].flops < work["masked transformer"].flops
    assert base["autoencoder"] == work["autoencoder"]


def test_what_cannot_be_counted_is_refused(tiny: TokenizerFolder) -> None:
    with pytest.raises(RequestError, match=r"dopri5.*--solver"):
        shape_of(tiny, solver="dopri5")
    with pytest.raises(RequestError, match="rounds must be between 1 and 16, got 17"):
        shape_of(tiny, rounds=17)
    with pytest.raises(RequestError, match="flow steps must be at least 1"):
        shape_of(tiny, flow_steps=0)
    with pytest.raises(ModelFolderError, match="'Other' can't be counted"):
        autoencoder_work({"decoder_block_types": "Other"}, (4, 4))
