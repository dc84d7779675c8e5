"""Requests of all kinds for the tiny model, and what the plain sampler makes of each one alone."""

from __future__ import annotations

import dataclasses

import torch

from tests.tiny_model import tiny_autoencoder, tiny_tokenizer_config
from v2flow_engine.config import FlowConfig
from v2flow_engine.decoding.request import DecodeRequest, image_noise
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

GRIDS = {"64x64": (4, 4), "32x32": (2, 2), "64x32": (2, 4), "16x64": (4, 1), "48x64": (4, 3)}


def tiny_decoder(seed: int = 0, decoder_depth: int = 2, **flow) -> tuple[VisualTokenizer, Autoencoder]:
    """A tokenizer and an autoencoder with random weights, none of them zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = dataclasses.replace(
            tiny_tokenizer_config(None),
            decoder_depth=decoder_depth,
            velocity_depth=2,
            flow=FlowConfig(**flow),
        )
        tokenizer = VisualTokenizer(config)
        for parameter in tokenizer.velocity.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return tokenizer.eval(), Autoencoder(tiny_autoencoder()).eval()


def make_request(
    number: int, size: str = "64x64", redraw: list[int] | None = None, **changes
) -> DecodeRequest:
    """Random codes, and random known latents if positions to draw are named."""
    generator = torch.Generator().manual_seed(number)
    rows, columns = GRIDS[size]
    codes = torch.randint(64, (rows * columns,), generator=generator)
    settings = {"rounds": 3, "flow_steps": 4} | changes
    if redraw is not None:
        mask = torch.zeros(rows * columns, dtype=torch.bool)
        mask[redraw] = True
        settings["redraw"] = mask
        settings["known_latents"] = torch.randn(4, 2 * rows, 2 * columns, generator=generator)
    return DecodeRequest(codes=codes, seed=number, size=size, **settings)


def plain_latents(tokenizer: VisualTokenizer, request: DecodeRequest) -> torch.Tensor:
    """The oracle: the request alone through the plain sampler, (C, h, w)."""
    grid = GRIDS[request.size]
    own = image_noise(tokenizer.config, request.seed, grid, request.temperature)
    known = {}
    if request.redraw is not None:
        known = {"known_latents": request.known_latents[None], "redraw": request.redraw[None]}
    return sample_latents(
        tokenizer,
        request.codes[None],
        own.order[None],
        own.noise[None],
        grid=grid,
        rounds=request.rounds,
        flow_steps=request.flow_steps,
        guidance_scale=request.guidance_scale,
        guidance_schedule=request.guidance_schedule,
        solver=request.solver,
        **known,
    )[0]


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """max |ours - theirs| over max |theirs|."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


# One of everything that a request can ask for.
MIXED = [
    make_request(1),
    make_request(2, "32x32", rounds=1, flow_steps=1, guidance_scale=3.0),
    make_request(3, "64x32", rounds=8, solver="heun", guidance_scale=1.5),
    make_request(
        4, solver="euler", flow_steps=9, temperature=0.4, guidance_scale=4.0, guidance_schedule="linear"
    ),
    make_request(5, "16x64", rounds=2, guidance_scale=0.0),
    make_request(6, redraw=[0, 3, 5, 9, 15], guidance_scale=2.0),
    make_request(7, redraw=list(range(16)), rounds=16, flow_steps=2),
    make_request(8, redraw=[]),
    make_request(9, "48x64", rounds=5, flow_steps=6),
    make_request(10, "64x32", redraw=[1, 2, 3], rounds=2, solver="heun", guidance_scale=0.0),
    make_request(12, solver="dpm_solver_pp_2m", rounds=3, flow_steps=4, guidance_scale=2.5),
]

# Apart from the others: its steps follow from the size of its errors, so rounding shows where the field is stiff.
ADAPTIVE = make_request(11, "32x32", rounds=4, solver="dopri5", guidance_scale=2.0)
COND_OT = {"method": "CondOT", "solver": "heun", "guidance_schedule": "linear"}
