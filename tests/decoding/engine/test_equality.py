"""The engine against the plain sampler, and against the reference implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.decoding.engine.engine_cases import (
    ADAPTIVE,
    COND_OT,
    MIXED,
    make_request,
    plain_latents,
    relative_difference,
    tiny_decoder,
)
from tests.tiny_model import tiny_autoencoder
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.decoding.request import DecodeRequest, ImageNoise
from v2flow_engine.evaluation.parity import noise_by_position
from v2flow_engine.evaluation.parity_fixture import load_fixture
from v2flow_engine.models.vae import Autoencoder

GOLDEN = Path(__file__).parents[2] / "golden"
MODELS = {
    "transformer": {"unconditional": "transformer"},
    "null vector": {"unconditional": "null_condition"},
    "CondOT": COND_OT,
}


def run_all(engine: DecoderEngine, requests: list[DecodeRequest]) -> list[torch.Tensor]:
    """The latents of all requests, added at once."""
    ids = [engine.add(request) for request in requests]
    finished = {}
    while engine.busy:
        finished |= {image.request_id: image.latents for image in engine.step()}
    return [finished[request_id] for request_id in ids]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", ["grouped", "padded"])
def test_a_mix_of_everything_gives_the_plain_samplers_latents(name: str, attention: str) -> None:
    tokenizer, autoencoder = tiny_decoder(**MODELS[name])
    engine = DecoderEngine(tokenizer, autoencoder, EngineSettings(attention=attention))
    for request, ours in zip(MIXED, run_all(engine, MIXED), strict=True):
        theirs = plain_latents(tokenizer, request)
        assert ours.dtype == torch.float32 and ours.shape == theirs.shape
        assert relative_difference(ours, theirs) < 1e-5, request


def test_an_adaptive_solver_runs_among_the_others() -> None:
    tokenizer, autoencoder = tiny_decoder(**COND_OT)
    requests = [MIXED[0], ADAPTIVE, MIXED[3]]
    for request, ours in zip(requests, run_all(DecoderEngine(tokenizer, autoencoder), requests), strict=True):
        assert relative_difference(ours, plain_latents(tokenizer, request)) < 1e-4


@pytest.mark.parametrize("decoder_depth", [0, 1])
def test_shallow_decoders_are_equal_too(decoder_depth: int) -> None:
    tokenizer, autoencoder = tiny_decoder(decoder_depth=decoder_depth)
    ours = run_all(DecoderEngine(tokenizer, autoencoder), MIXED[:4])
    for request, latents in zip(MIXED, ours, strict=False):
        assert relative_difference(latents, plain_latents(tokenizer, request)) < 1e-5


def test_known_latents_are_kept_to_the_bit() -> None:
    request = make_request(6, redraw=[0, 3, 5, 9, 15])
    (latents,) = run_all(DecoderEngine(*tiny_decoder()), [request])
    kept = ~request.redraw.view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(latents[:, kept], request.known_latents[:, kept])


def test_pictures_are_those_of_the_plain_decoder() -> None:
    tokenizer, autoencoder = tiny_decoder()
    plain = Decoder(tokenizer, autoencoder).decode(MIXED)
    for ours, theirs in zip(DecoderEngine(tokenizer, autoencoder).decode(MIXED), plain, strict=True):
        assert ours.dtype == np.uint8 and np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("name", ["linear_flow", "condot", "vocabulary"])
def test_the_reference_implementations_latents(name: str) -> None:
    fixture = load_fixture(GOLDEN / f"{name}.json")
    engine = DecoderEngine(
        fixture.tokenizer, Autoencoder(tiny_autoencoder(fixture.shape.latent_channels)).eval()
    )
    side = fixture.shape.grid * engine.limits.downscale
    noise, given = noise_by_position(fixture), fixture.tensors
    for image in range(fixture.shape.batch):
        request = DecodeRequest(
            codes=given["indices"][image].long(),
            seed=0,
            size=f"{side}x{side}",
            rounds=fixture.shape.num_iter,
            flow_steps=fixture.shape.flow_steps,
            guidance_scale=fixture.shape.guidance_scale,
        )
        engine.add(request, str(image), ImageNoise(given["orders"][image].long(), noise[image]))
    finished = {}
    while engine.busy:
        finished |= {int(image.request_id): image.latents for image in engine.step()}
    ours = torch.stack([finished[image] for image in range(fixture.shape.batch)])
    assert relative_difference(ours, given["latents_out"]) < (1e-3 if name == "condot" else 1e-4)
