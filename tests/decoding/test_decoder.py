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


def test_seed_codes_and_guidance_each_change_the_picture(decoder: Decoder) -> None:
    base = request(1)
    variants = [request(1, seed=9), request(1, codes=request(2).codes), request(1, guidance_scale=4.0)]
    pictures = decoder.decode([base, *variants])
    for other in pictures[1:]:
        assert np.abs(pictures[0].astype(int) - other).max() > 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "128x128"}, "64x64"),
        ({"codes": torch.zeros(15, dtype=torch.int64)}, "16 codes"),
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
