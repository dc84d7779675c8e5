"""Whatever else runs, waits, arrives or is cancelled, an image gets the latents that it gets alone."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decoding.engine.engine_cases import MIXED, plain_latents, relative_difference, tiny_decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

SMALLEST_BUDGET = 2 * (16 + 16)  # one guided image of the full grid
# Of the largest latent. Kernels may round a bfloat16 sum another way in another batch; some never do.
BF16_BOUND = 5e-2


@cache
def decoder(dtype: torch.dtype) -> tuple[VisualTokenizer, Autoencoder]:
    tokenizer, autoencoder = tiny_decoder()
    return tokenizer.to(dtype), autoencoder.to(dtype)


@cache
def alone(index: int, dtype: torch.dtype) -> torch.Tensor:
    """The engine's latents of one request by itself."""
    engine = DecoderEngine(*decoder(dtype))
    engine.add(MIXED[index])
    while True:
        if finished := engine.step():
            return finished[0].latents


# Each event: a request to add (its place in MIXED), a step, or the cancelling of one that was added (modulo).
events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, len(MIXED) - 1)),
        st.tuples(st.just("step"), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 99)),
    ),
    max_size=24,
)


def play(engine: DecoderEngine, script: list[tuple[str, int]]) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Ids that must finish, and the latents of those that did; ids begin with the request's place in MIXED."""
    finished: dict[str, torch.Tensor] = {}
    expected: list[str] = []
    for number, (event, value) in enumerate(script):
        under_way = [request_id for request_id in expected if request_id not in finished]
        if event == "add":
            expected.append(engine.add(MIXED[value], f"{value}/{number}"))
        elif event == "step":
            finished |= {image.request_id: image.latents for image in engine.step()}
        elif under_way:
            expected.remove(under_way[value % len(under_way)])
            engine.cancel(under_way[value % len(under_way)])
        assert engine.scheduler.used_tokens <= engine.scheduler.max_tokens
    while engine.busy:
        finished |= {image.request_id: image.latents for image in engine.step()}
    assert engine.scheduler.used_tokens == 0
    return expected, finished


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    script=events, budget=st.integers(SMALLEST_BUDGET, 512), attention=st.sampled_from(["grouped", "padded"])
)
def test_latents_are_those_of_the_image_alone(
    script: list[tuple[str, int]], budget: int, attention: str
) -> None:
    tokenizer, autoencoder = decoder(torch.float32)
    engine = DecoderEngine(tokenizer, autoencoder, EngineSettings(max_tokens=budget, attention=attention))
    expected, finished = play(engine, script)
    assert sorted(expected) == sorted(finished)
    for request_id, latents in finished.items():
        assert relative_difference(latents, alone(int(request_id.split("/")[0]), torch.float32)) < 1e-5


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(script=events, budget=st.integers(SMALLEST_BUDGET, 512))
def test_in_bfloat16_they_differ_by_rounding(script: list[tuple[str, int]], budget: int) -> None:
    engine = DecoderEngine(*decoder(torch.bfloat16), EngineSettings(max_tokens=budget))
    _, finished = play(engine, script)
    for request_id, latents in finished.items():
        assert latents.dtype == torch.float32
        reference = alone(int(request_id.split("/")[0]), torch.bfloat16)
        assert relative_difference(latents, reference) < BF16_BOUND


@pytest.mark.parametrize("index", range(len(MIXED)))
def test_alone_is_the_plain_sampler(index: int) -> None:
    theirs = plain_latents(decoder(torch.float32)[0], MIXED[index])
    assert relative_difference(alone(index, torch.float32), theirs) < 1e-5
