"""A golden fixture -> how far each stage of the visual tokenizer is from it.

Each stage starts from the fixture's own inputs, so that an error shows where it is made. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.decoding.schedule import round_positions
from v2flow_engine.evaluation.parity_fixture import Fixture

SAMPLING = "latents_out"


@dataclass(frozen=True)
class Difference:
    """One tensor of ours against the fixture's.

    absolute: max |ours - theirs|. relative: that over max |theirs|, one number for the tensor, since single elements
    near zero would say nothing. Whole numbers (codes) are `ok` only if equal, whatever the tolerance.
    """

    tensor: str
    shape: tuple[int, ...]
    absolute: float
    relative: float
    tolerance: float
    whole: bool = False

    @property
    def ok(self) -> bool:
        """Within tolerance; never for NaN."""
        return self.absolute == 0 if self.whole else self.relative <= self.tolerance


def compare(tensor: str, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> Difference:
    """Two tensors of one shape -> their difference, computed in float64."""
    absolute = float((ours.double() - theirs.double()).abs().max())
    scale = float(theirs.double().abs().max())
    relative = absolute / scale if scale else (0.0 if absolute == 0 else float("inf"))
    return Difference(
        tensor, tuple(theirs.shape), absolute, relative, tolerance, whole=not theirs.is_floating_point()
    )


@torch.inference_mode()
def run_parity(
    fixture: Fixture, tolerance: float = 1e-4, sampling_tolerance: float = 1e-3
) -> list[Difference]:
    """Every stage in the order of the data flow; `sampling_tolerance` is for `latents_out`, the whole sampling."""
    return [
        compare(name, ours, fixture.tensors[name], sampling_tolerance if name == SAMPLING else tolerance)
        for name, ours in stages(fixture)
    ]


def stages(fixture: Fixture) -> Iterator[tuple[str, torch.Tensor]]:
    """(name of the fixture's tensor, what this package computes for it), stage by stage."""
    tokenizer, given = fixture.tokenizer, fixture.tensors
    yield "resampler_out", tokenizer.resampler(given["latents_in"])
    vectors = given["resampler_out"]
    if tokenizer.config.text_vocab_size is not None:
        yield "soft_tokens", tokenizer.soft_tokens(vectors)
        yield "llm_space_tokens", tokenizer.mix(given["soft_tokens"])
        vectors = given["llm_space_tokens"]
    yield "indices", tokenizer.quantizer.assign(vectors)
    yield "vq_embeddings", tokenizer.quantizer.lookup(given["indices"].long())
    yield "condition_tokens", tokenizer.projector(given["vq_embeddings"])
    yield "velocity_out", tokenizer.velocity(given["velocity_x"], given["velocity_t"], given["velocity_c"])
    yield SAMPLING, sample_fixture(fixture)


def sample_fixture(fixture: Fixture) -> torch.Tensor:
    """The whole sampling with the fixture's codes, orders and noise -> latents (B, C, h, w)."""
    shape, given = fixture.shape, fixture.tensors
    return sample_latents(
        fixture.tokenizer,
        given["indices"].long(),
        given["orders"].long(),
        noise_by_position(fixture),
        rounds=shape.num_iter,
        flow_steps=shape.flow_steps,
        guidance_scale=shape.guidance_scale,
    )


def noise_by_position(fixture: Fixture) -> torch.Tensor:
    """The fixture's noise, round by round and image by image -> (B, N, C p^2), each position's own."""
    config, shape = fixture.tokenizer.config, fixture.shape
    noise = torch.empty(shape.batch, config.num_positions, config.token_channels)
    rounds = [round_positions(order, shape.num_iter) for order in fixture.tensors["orders"].long()]
    for i in range(shape.num_iter):
        rows = fixture.tensors[f"noise_{i}"].chunk(shape.batch)
        for image in range(shape.batch):
            noise[image, rounds[image][i]] = rows[image]
    return noise
