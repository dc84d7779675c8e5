"""Finishing pictures in threads: every one once, errors told, and the engine never waits."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image

from tests.decoding.engine.engine_cases import MIXED, make_request, tiny_decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.finishing import finish_pictures
from v2flow_engine.errors import RequestError
from v2flow_engine.images import ImageMetadata, encode_image, read_metadata

PATIENCE_SECONDS = 60


@pytest.fixture
def engine() -> DecoderEngine:
    return DecoderEngine(*tiny_decoder())


def test_each_picture_comes_once_as_a_file_that_says_how_it_was_made(engine: DecoderEngine) -> None:
    def finish(place: int, picture: np.ndarray) -> bytes:
        return encode_image(picture, "png", ImageMetadata(f"prompt {place}", MIXED[place].seed))

    files = list(finish_pictures(engine, MIXED, finish))
    assert sorted(place for place, _ in files) == list(range(len(MIXED)))
    expected = engine.decode(MIXED)
    for place, data in files:
        assert read_metadata(data) == ImageMetadata(f"prompt {place}", MIXED[place].seed)
        written = np.asarray(Image.open(io.BytesIO(data)))
        assert np.abs(written.astype(int) - expected[place]).max() <= 1


def test_the_engine_runs_on_while_a_picture_is_being_finished(engine: DecoderEngine) -> None:
    """The picture that is ready first is held back until the last one has come out of the engine."""
    last_is_there = threading.Event()

    def finish(place: int, picture: np.ndarray) -> bool:
        if place == 2:
            last_is_there.set()
        return last_is_there.wait(PATIENCE_SECONDS)

    requests = [make_request(1, rounds=1), make_request(2, rounds=3), make_request(3, rounds=6)]
    assert dict(finish_pictures(engine, requests, finish, threads=3)) == {0: True, 1: True, 2: True}


def test_an_error_while_finishing_is_raised_and_leaves_an_idle_engine(engine: DecoderEngine) -> None:
    def finish(place: int, picture: np.ndarray) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        list(finish_pictures(engine, MIXED, finish))
    assert not engine.busy


def test_an_iterator_that_is_closed_early_leaves_an_idle_engine(engine: DecoderEngine) -> None:
    requests = [make_request(number, rounds=1 + 5 * number) for number in range(3)]
    stream = finish_pictures(engine, requests, lambda place, picture: picture.shape)
    assert next(stream) == (0, (64, 64, 3))
    stream.close()
    assert not engine.busy


def test_a_request_that_cannot_be_is_refused_before_any_work(engine: DecoderEngine) -> None:
    requests = [make_request(1), make_request(2, rounds=17)]
    with pytest.raises(RequestError, match="rounds must be between 1 and 16"):
        finish_pictures(engine, requests, lambda place, picture: None)
    assert not engine.busy
