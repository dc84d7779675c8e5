"""The engine on CUDA: every attention, CUDA graphs and compilation against the plain sampler. Not yet run."""

from __future__ import annotations

import pytest
import torch

from tests.decoding.engine.engine_cases import MIXED, plain_latents, relative_difference, tiny_decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.settings import EngineSettings


def differences(dtype: torch.dtype, **settings) -> list[float]:
    """Of each image's latents on CUDA from those of the plain sampler on the processor, in float32."""
    tokenizer, autoencoder = tiny_decoder()
    theirs = [plain_latents(tokenizer, request) for request in MIXED]
    engine = DecoderEngine(
        tokenizer.to("cuda", dtype), autoencoder.to("cuda", dtype), EngineSettings(**settings)
    )
    ids = [engine.add(request) for request in MIXED]
    finished = {}
    while engine.busy:
        finished |= {image.request_id: image.latents.cpu() for image in engine.step()}
    return [relative_difference(finished[i], own) for i, own in zip(ids, theirs, strict=True)]


@pytest.mark.parametrize("attention", ["grouped", "padded", "xformers"])
def test_float32_equals_the_plain_sampler(attention: str) -> None:
    if attention == "xformers":
        pytest.importorskip("xformers")
    assert max(differences(torch.float32, attention=attention)) < 1e-3


@pytest.mark.parametrize("settings", [{"cuda_graphs": True}, {"compile": True}], ids=str)
def test_options_change_nothing(settings: dict) -> None:
    assert max(differences(torch.float32, attention="grouped", **settings)) < 1e-3


def test_the_variable_length_kernel_agrees_with_groups() -> None:
    varlen = differences(torch.bfloat16, attention="varlen")
    grouped = differences(torch.bfloat16, attention="grouped")
    assert max(varlen) < 2 * max(grouped) + 1e-2
