"""Drawing a part of an image anew: what is known stays, and the rest is drawn as if it had been drawn before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_model import SIZE, build_tiny_model
from v2flow_engine.checkpoint import open_model
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.request import DecodeRequest, image_noise
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.decoding.schedule import guidance_scales, mask_lengths
from v2flow_engine.errors import RequestError

SETTINGS = {"rounds": 3, "flow_steps": 4, "guidance_scale": 1.5}
GRIDS = {SIZE: (4, 4), "32x32": (2, 2), "64x32": (2, 4)}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    return Decoder.from_folder(open_model(folder))


def request(number: int, size: str = SIZE, redraw: list[int] | None = None, **changes) -> DecodeRequest:
    """An image with random codes and, if positions to draw are named, random known latents."""
    generator = torch.Generator().manual_seed(number)
    rows, columns = GRIDS[size]
    codes = torch.randint(64, (rows * columns,), generator=generator)
    plain = DecodeRequest(**{"codes": codes, "seed": number, "size": size, **SETTINGS, **changes})
    if redraw is None:
        return plain
    mask = torch.zeros(rows * columns, dtype=torch.bool)
    mask[redraw] = True
    latents = torch.randn(4, 2 * rows, 2 * columns, generator=generator)
    return dataclasses.replace(plain, known_latents=latents, redraw=mask)


def sample(decoder: Decoder, *requests: DecodeRequest, **changes) -> torch.Tensor:
    """The latents of requests of one size through the plain sampler."""
    grid = decoder.grid_of(requests[0].size)
    own = [image_noise(decoder.tokenizer.config, each.seed, grid) for each in requests]
    known = {
        name: torch.stack([getattr(each, name) for each in requests])
        for name in ("known_latents", "redraw")
        if getattr(requests[0], name) is not None
    }
    return sample_latents(
        decoder.tokenizer,
        torch.stack([each.codes for each in requests]),
        torch.stack([each.order for each in own]),
        torch.stack([each.noise for each in own]),
        grid=grid,
        **{**SETTINGS, **known, **changes},
    )


@pytest.mark.parametrize("size", list(GRIDS))
def test_what_is_outside_the_mask_is_kept_to_the_bit(decoder: Decoder, size: str) -> None:
    asked = [request(seed, size, [0, 1, 3]) for seed in range(3)]
    drawn = sample(decoder, *asked)
    for each, latents in zip(asked, drawn, strict=True):
        rows, columns = GRIDS[size]
        mask = each.redraw.view(rows, columns).repeat_interleave(2, 0).repeat_interleave(2, 1)
        assert torch.equal(latents[:, ~mask], each.known_latents[:, ~mask])
        assert (latents[:, mask] != each.known_latents[:, mask]).all()


def test_a_full_mask_is_plain_decoding_and_an_empty_one_changes_nothing(decoder: Decoder) -> None:
    everything = request(1, redraw=list(range(16)))
    plain = request(1)
    assert torch.equal(sample(decoder, everything), sample(decoder, plain))
    assert np.array_equal(decoder.decode([everything])[0], decoder.decode([plain])[0])
    nothing = request(1, redraw=[])
    assert torch.equal(sample(decoder, nothing)[0], nothing.known_latents)
    assert torch.equal(sample(decoder, nothing, rounds=16)[0], nothing.known_latents)


def test_known_positions_are_seen_as_if_they_had_been_drawn(decoder: Decoder) -> None:
    """The last round of plain decoding, taken alone with what the rounds before it drew, gives the same latents."""
    plain = request(5)
    drawn = sample(decoder, plain)
    last = image_noise(decoder.tokenizer.config, 5).order[: mask_lengths(16, 3)[-2]]
    mask = torch.zeros(16, dtype=torch.bool)
    mask[last] = True
    again = dataclasses.replace(plain, known_latents=drawn[0], redraw=mask)
    assert 0 < len(last) < 16
    torch.testing.assert_close(sample(decoder, again, rounds=1), drawn, rtol=1e-5, atol=1e-5)


def test_what_lies_under_the_mask_does_not_matter(decoder: Decoder) -> None:
    masked = request(2, redraw=[5, 6, 9, 10])
    under = masked.redraw.view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)
    other = dataclasses.replace(masked, known_latents=masked.known_latents.masked_fill(under, 9.0))
    outside = dataclasses.replace(masked, known_latents=masked.known_latents.masked_fill(~under, 9.0))
    first, same, different = (sample(decoder, each)[0] for each in (masked, other, outside))
    assert torch.equal(first, same)
    assert (first[:, under] - different[:, under]).abs().max() > 1e-3


def test_a_result_does_not_depend_on_its_batch_mates(decoder: Decoder) -> None:
    mixed = [
        request(1, redraw=[0, 1, 2]),
        request(2),
        request(3, redraw=[4, 9, 15]),
        request(4, redraw=list(range(16))),
        request(5, redraw=[]),
        request(6, "32x32", [1, 2, 3]),
        request(7, "32x32"),
        request(8, "64x32", [0, 7, 3, 2], rounds=2),
        request(9, redraw=[7, 8, 11, 12, 13], guidance_scale=1.0),
    ]
    together = decoder.decode(mixed)
    assert [each.shape[:2] for each in together[4:8]] == [(64, 64), (32, 32), (32, 32), (32, 64)]
    for one, picture in zip(mixed, together, strict=True):
        assert np.abs(decoder.decode([one])[0].astype(int) - picture).max() <= 1
    latents = sample(decoder, mixed[0], mixed[2])
    torch.testing.assert_close(latents[:1], sample(decoder, mixed[0]), rtol=1e-5, atol=1e-5)


def test_growing_guidance_counts_what_is_known_from_the_start() -> None:
    assert guidance_scales(16, 2, 5.0, "linear", 16) == guidance_scales(16, 2, 5.0, "linear")
    assert guidance_scales(16, 1, 5.0, "linear", 4) == guidance_scales(16, 1, 5.0, "linear")
    first, _ = mask_lengths(4, 2)
    assert guidance_scales(16, 2, 5.0, "linear", 4)[0] == 1 + 4 * (16 - first) / 16


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda: request(1, redraw=[1, 2]), "rounds must be between 1 and 2, got 3"),
        (lambda: dataclasses.replace(request(1), redraw=torch.ones(16) > 0), "must be given together"),
        (
            lambda: dataclasses.replace(request(1, redraw=[1]), known_latents=torch.zeros(4, 8, 4)),
            r"has latents of shape \(4, 8, 8\), got \(4, 8, 4\)",
        ),
        (
            lambda: dataclasses.replace(request(1, redraw=[1]), redraw=torch.ones(4) > 0),
            r"redraw must be 16 booleans for a picture of 64x64, got \(4,\)",
        ),
        (
            lambda: dataclasses.replace(request(1, redraw=[1]), redraw=torch.ones(16)),
            r"redraw must be 16 booleans .* of torch.float32",
        ),
    ],
)
def test_mistakes_say_what_came_and_what_was_expected(decoder: Decoder, asked, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        decoder.decode([asked()])


def test_the_plain_sampler_takes_equal_masks_only(decoder: Decoder) -> None:
    with pytest.raises(RequestError, match=r"as many positions in each image, got \(2, 16\) with \[1, 2\]"):
        sample(decoder, request(1, redraw=[1]), request(2, redraw=[1, 2]), rounds=1)
