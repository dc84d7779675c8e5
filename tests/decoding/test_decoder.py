"""The decoder: shapes, independence of the batch, guidance, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_model import SIZE, build_tiny_model
from v2flow_engine.checkpoint import open_model
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.request import DecodeRequest, image_noise
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.decoding.schedule import mask_lengths, round_positions
from v2flow_engine.errors import RequestError
from v2flow_engine.models.masked_transformer import upper_left


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    return Decoder.from_folder(open_model(folder))


def request(number: int, **changes) -> DecodeRequest:
    codes = torch.randint(64, (16,), generator=torch.Generator().manual_seed(number))
    return DecodeRequest(
        **{"codes": codes, "seed": number, "size": SIZE, "rounds": 3, "flow_steps": 4} | changes
    )


def test_pictures_are_uint8_and_differ(decoder: Decoder) -> None:
    first, second = decoder.decode([request(1), request(2)])
    assert first.shape == second.shape == (64, 64, 3) and first.dtype == np.uint8
    assert np.abs(first.astype(int) - second).mean() > 1


def test_a_picture_does_not_depend_on_its_batch(decoder: Decoder) -> None:
    mixed = [
        request(1),
        request(2, rounds=2),
        request(3),
        request(4, guidance_scale=2.0),
        request(5, flow_steps=6),
    ]
    together = decoder.decode(mixed)
    for one, picture in zip(mixed, together, strict=True):
        alone = decoder.decode([one])[0]
        assert np.abs(alone.astype(int) - picture).max() <= 1


def test_latents_do_not_depend_on_the_batch(decoder: Decoder) -> None:
    tokenizer, requests = decoder.tokenizer, [request(i) for i in range(4)]
    own = [image_noise(tokenizer.config, r.seed) for r in requests]
    codes, orders, noise = (
        torch.stack(t)
        for t in zip(*((r.codes, n.order, n.noise) for r, n in zip(requests, own, strict=True)), strict=True)
    )
    together = sample_latents(tokenizer, codes, orders, noise, rounds=3, flow_steps=4, guidance_scale=1.5)
    for i in range(4):
        alone = sample_latents(
            tokenizer,
            codes[i : i + 1],
            orders[i : i + 1],
            noise[i : i + 1],
            rounds=3,
            flow_steps=4,
            guidance_scale=1.5,
        )
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)


def small(number: int, size: str, tokens: int, **changes) -> DecodeRequest:
    codes = torch.randint(64, (tokens,), generator=torch.Generator().manual_seed(number))
    return request(number, codes=codes, size=size, **changes)


def test_sizes_mix_in_a_batch_and_do_not_touch_each_other(decoder: Decoder) -> None:
    mixed = [
        small(1, "32x32", 4),
        request(2),
        small(3, "64x32", 8),
        small(4, "32x64", 8, guidance_scale=2.0),
        small(5, "32x32", 4),
        small(6, "16x64", 4),
    ]
    together = decoder.decode(mixed)
    assert [p.shape[:2] for p in together] == [(32, 32), (64, 64), (32, 64), (64, 32), (32, 32), (64, 16)]
    for one, picture in zip(mixed, together, strict=True):
        assert np.abs(decoder.decode([one])[0].astype(int) - picture).max() <= 1


@pytest.mark.parametrize("grid", [(2, 2), (2, 4), (4, 1)])
def test_latents_of_a_small_grid_do_not_depend_on_the_batch(decoder: Decoder, grid: tuple[int, int]) -> None:
    tokenizer, count = decoder.tokenizer, grid[0] * grid[1]
    codes = torch.randint(64, (3, count), generator=torch.Generator().manual_seed(0))
    own = [image_noise(tokenizer.config, seed, grid) for seed in range(3)]
    orders, noise = torch.stack([n.order for n in own]), torch.stack([n.noise for n in own])
    settings = {"grid": grid, "rounds": 2, "flow_steps": 4, "guidance_scale": 1.5}
    together = sample_latents(tokenizer, codes, orders, noise, **settings)
    assert together.shape == (3, 4, 2 * grid[0], 2 * grid[1])
    for i in range(3):
        alone = sample_latents(tokenizer, codes[i : i + 1], orders[i : i + 1], noise[i : i + 1], **settings)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)


def test_positions_belong_to_rows_and_columns(decoder: Decoder) -> None:
    """A small grid uses the embeddings of the full grid's upper left part, so a full table serves all grids."""
    transformer = decoder.tokenizer.masked_transformer
    tokens = torch.arange(16.0)[None, :, None].expand(1, 16, 32)
    assert upper_left(tokens, (4, 4), (2, 3))[0, :, 0].tolist() == [0, 1, 2, 4, 5, 6]
    known = torch.zeros(1, 0, dtype=torch.int64)
    with torch.inference_mode():
        full = transformer(torch.zeros(1, 16, 16), known, torch.zeros(1, 16, 32))
        same = transformer(torch.zeros(1, 16, 16), known, torch.zeros(1, 16, 32), (4, 4))
        part = transformer(torch.zeros(1, 6, 16), known, torch.zeros(1, 6, 32), (2, 3))
    assert torch.equal(full, same)
    assert part.shape == (1, 6, 32)


def test_seed_codes_and_guidance_each_change_the_picture(decoder: Decoder) -> None:
    base = request(1)
    variants = [request(1, seed=9), request(1, codes=request(2).codes), request(1, guidance_scale=4.0)]
    pictures = decoder.decode([base, *variants])
    for other in pictures[1:]:
        assert np.abs(pictures[0].astype(int) - other).max() > 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "128x128"}, "up to 64x64 pixels in steps of 16, not 128x128"),
        ({"size": "64x40"}, "steps of 16, not 64x40"),
        ({"size": "64x32"}, r"64x32 has 8 codes, got shape \(16,\)"),
        ({"codes": torch.zeros(15, dtype=torch.int64)}, "has 16 codes"),
        ({"codes": torch.full((16,), 64)}, r"\[0, 64\)"),
        ({"rounds": 17}, "between 1 and 16"),
        ({"rounds": 0}, "between 1 and 16"),
        ({"flow_steps": 0}, "flow_steps"),
        ({"seed": -1}, "seed"),
        ({"guidance_scale": float("nan")}, "guidance"),
    ],
)
def test_refusals_name_what_came_and_what_was_expected(decoder: Decoder, changes: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        decoder.decode([request(1, **changes)])


@pytest.mark.parametrize("rounds", [1, 2, 4, 7, 16])
def test_each_position_is_predicted_exactly_once(rounds: int) -> None:
    order = torch.randperm(16)
    positions = round_positions(order, rounds)
    assert len(positions) == rounds == len(mask_lengths(16, rounds))
    assert torch.cat(positions).sort().values.tolist() == list(range(16))
    assert all(len(p) for p in positions)
