"""The engine's queue and places, previews, refusals, and its precision on the embedded model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.decoding.engine.engine_cases import make_request, plain_latents, relative_difference, tiny_decoder
from v2flow_engine.checkpoint import open_model
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.scheduler import Scheduler
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.errors import RequestError

ONE_GUIDED_IMAGE = 2 * (16 + 16)


@pytest.fixture
def engine() -> DecoderEngine:
    return DecoderEngine(*tiny_decoder(), EngineSettings(max_tokens=ONE_GUIDED_IMAGE))


def test_first_come_first_served_and_nobody_is_passed() -> None:
    scheduler: Scheduler[str] = Scheduler(10)
    for name, cost in (("a", 6), ("b", 6), ("c", 2), ("d", 2)):
        scheduler.add(name, name, cost)
    assert scheduler.admit() == [("a", "a")]  # c and d would fit beside a, but b was there before
    assert scheduler.admit() == []
    scheduler.leave("a")
    assert [name for name, _ in scheduler.admit()] == ["b", "c", "d"]
    assert (scheduler.num_waiting, scheduler.num_running, scheduler.used_tokens) == (0, 3, 10)


def test_a_large_request_gets_its_turn_among_small_ones(engine: DecoderEngine) -> None:
    """A steady stream of small requests behind a large one does not keep it waiting."""
    for number in range(4):
        engine.add(make_request(number, "32x32"))
    large = engine.add(make_request(9, guidance_scale=2.0))
    for number in range(10, 30):
        engine.add(make_request(number, "32x32"))
        if any(image.request_id == large for image in engine.step()):
            break
    assert number < 20


def test_a_cancelled_request_frees_its_place_at_once(engine: DecoderEngine) -> None:
    first, second, third = (engine.add(make_request(i, guidance_scale=2.0)) for i in range(3))
    engine.step()
    engine.cancel(first)  # under way
    engine.cancel(second)  # waiting
    engine.step()
    assert engine.scheduler.num_running == 1
    engine.preview(third)
    with pytest.raises(RequestError, match="no request 'image-0' is waiting or running"):
        engine.cancel(first)


def test_requests_share_rounds_and_leave_when_they_are_done() -> None:
    engine = DecoderEngine(*tiny_decoder())
    for rounds in (1, 2, 4):
        engine.add(make_request(rounds, rounds=rounds), f"{rounds} rounds")
    left = [[image.request_id for image in engine.step()] for _ in range(4)]
    assert left == [["1 rounds"], ["2 rounds"], [], ["4 rounds"]]
    assert not engine.busy and engine.step() == []


def test_a_preview_approaches_the_picture_and_changes_nothing() -> None:
    tokenizer, autoencoder = tiny_decoder()
    engine = DecoderEngine(tokenizer, autoencoder)
    request = make_request(3, rounds=6, redraw=list(range(12)))
    request_id = engine.add(request)
    previews, finished = [], []
    while not finished:
        finished = engine.step()
        if not finished:
            previews.append(engine.preview(request_id))
    picture = finished[0].picture
    distances = [float(np.abs(each.astype(int) - picture).mean()) for each in previews]
    assert len(previews) == 5 and previews[0].shape == picture.shape and previews[0].dtype == np.uint8
    assert distances[-1] < distances[0]
    assert relative_difference(finished[0].latents, plain_latents(tokenizer, request)) < 1e-5


def test_the_last_positions_estimate_is_one_step_of_the_flow() -> None:
    """With one round of one Euler step left, the estimate is the picture."""
    tokenizer, autoencoder = tiny_decoder()
    engine = DecoderEngine(tokenizer, autoencoder)
    request_id = engine.add(make_request(3, rounds=2, flow_steps=1, solver="euler"))
    engine.step()
    preview = engine.preview(request_id)
    (image,) = engine.step()
    assert np.abs(preview.astype(int) - image.picture).max() <= 1


def test_previews_together_are_those_of_each_alone() -> None:
    tokenizer, autoencoder = tiny_decoder()
    engine = DecoderEngine(tokenizer, autoencoder)
    ids = [engine.add(make_request(seed, rounds=rounds)) for seed, rounds in ((1, 3), (2, 5), (3, 9))]
    engine.step()
    together = engine.preview_latents(ids)
    for request_id, latents in zip(ids, together, strict=True):
        assert relative_difference(latents, engine.preview_latents([request_id])[0]) < 1e-5
    assert engine.preview_latents([]) == []


def test_refusals_say_what_came_and_what_was_expected(engine: DecoderEngine) -> None:
    engine.add(make_request(1), "twice")
    with pytest.raises(RequestError, match="'twice' is already in use"):
        engine.add(make_request(2), "twice")
    with pytest.raises(RequestError, match="'twice' is still waiting"):
        engine.preview("twice")
    with pytest.raises(RequestError, match="'gone' is not running"):
        engine.preview("gone")
    with pytest.raises(RequestError, match="idle engine"):
        engine.decode([make_request(1)])
    with pytest.raises(RequestError, match="rounds must be between 1 and 16, got 17"):
        engine.add(make_request(1, rounds=17))
    with pytest.raises(RequestError, match="solver 'rk4' is none of euler"):
        make_request(1, solver="rk4")
    with pytest.raises(RequestError, match="guidance_schedule must be constant or linear, got 'cosine'"):
        make_request(1, guidance_schedule="cosine")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 63}, "max_tokens must be at least 64, one guided image, got 63"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        (
            {"attention": "flash"},
            "attention must be one of auto, grouped, padded, varlen, xformers, got 'flash'",
        ),
        ({"attention": "varlen"}, "needs a CUDA device, got cpu"),
        ({"cuda_graphs": True}, "cuda_graphs needs a CUDA device, got cpu"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        DecoderEngine(*tiny_decoder(), EngineSettings(**settings))


def test_warm_up_reports_and_leaves_nothing_behind() -> None:
    tokenizer, autoencoder = tiny_decoder()
    engine = DecoderEngine(tokenizer, autoencoder)
    report = engine.warm_up([make_request(1), make_request(2, "32x32", guidance_scale=2.0)])
    assert report.images == 4 and report.rounds == 9 and report.seconds > 0
    assert not engine.busy
    engine.add(make_request(1))
    with pytest.raises(RequestError, match="this needs an idle engine"):
        engine.warm_up([make_request(1)])


def test_bfloat16_keeps_40_decibels_on_the_embedded_model() -> None:
    folder = open_model("v2flow-emoji")
    generator = torch.Generator().manual_seed(0)
    defaults = folder.defaults
    requests = [
        DecodeRequest(
            torch.randint(2048, (64,), generator=generator),
            seed,
            folder.config.default_size,
            defaults.rounds,
            defaults.flow_steps,
            scale,
        )
        for seed, scale in enumerate((defaults.decoder_guidance, 2.0))
    ]
    exact = DecoderEngine.from_folder(folder).decode(requests)
    half = DecoderEngine.from_folder(folder, dtype=torch.bfloat16).decode(requests)
    for theirs, ours in zip(exact, half, strict=True):
        error = float(np.square(theirs.astype(float) - ours).mean())
        assert 10 * np.log10(255**2 / error) >= 40.0


def test_a_request_is_not_changed() -> None:
    tokenizer, autoencoder = tiny_decoder()
    request = make_request(6, redraw=[1, 2, 3, 9])
    before = {f.name: getattr(request, f.name) for f in dataclasses.fields(request)}
    copies = {k: v.clone() for k, v in before.items() if isinstance(v, torch.Tensor)}
    DecoderEngine(tokenizer, autoencoder).decode([request])
    assert all(torch.equal(before[name], copy) for name, copy in copies.items())
