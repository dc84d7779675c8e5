"""The Ray Data path on a tiny model: the same pictures as without Ray, and none lost with its worker."""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.errors import ModelFolderError
from v2flow_engine.generation.image_request import ImageRequest, plan_requests
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.offline.job import Job, run_on_ray
from v2flow_engine.offline.single_process import run_here
from v2flow_engine.offline.sizing import Sizing
from v2flow_engine.offline.stages import FinishedImage

pytestmark = pytest.mark.usefixtures("ray_running")
PROMPTS = ["a cat", "two green frogs", "a slice of pizza with cheese and olives, flat style"]
SMALL = Sizing(
    token_actors=1, decoder_actors=1, cpus_per_actor=0.5, gpus_per_actor=0.0, rows_per_batch=3, threads=1
)


@pytest.fixture
def folder(model_dir: Path) -> ModelFolder:
    """The tiny model, opened."""
    return open_model(model_dir)


def requests_for(folder: ModelFolder, prompts: Sequence[str]) -> list[ImageRequest]:
    """Four of each prompt."""
    return plan_requests(prompts, GenerationParameters.resolve(folder), n=4, seed=9)


def pixels(finished: FinishedImage) -> np.ndarray:
    """(H, W, 3) as int, for differences."""
    return np.asarray(Image.open(io.BytesIO(finished.image))).astype(int)


def test_ray_makes_the_same_pictures_and_keeps_bad_rows_apart(folder: ModelFolder) -> None:
    requests = requests_for(folder, [*PROMPTS, "cat " * 500])
    on_ray = {f.index: f for f in run_on_ray(Job(folder.path, requests, "png", {}), SMALL)}
    here = {f.index: f for f in run_here(folder.path, requests, "png", {})}
    assert sorted(on_ray) == sorted(here) == list(range(16))
    for index in range(12):
        assert np.abs(pixels(on_ray[index]) - pixels(here[index])).max() <= 1
    for index in range(12, 16):
        assert on_ray[index].error == here[index].error != ""


def decoder_processes() -> list[psutil.Process]:
    """The decoder actors among the descendants of this process."""
    children = psutil.Process().children(recursive=True)
    return [p for p in children if "DecoderActor" in " ".join(p.cmdline())]


def test_a_killed_decoder_loses_nothing(folder: ModelFolder) -> None:
    requests = requests_for(folder, PROMPTS)
    stream = run_on_ray(Job(folder.path, requests, "png", {}), SMALL)
    finished = [next(stream)]
    (decoder,) = decoder_processes()
    os.kill(decoder.pid, signal.SIGKILL)
    decoders = {decoder.pid}
    for each in stream:
        finished.append(each)
        decoders |= {process.pid for process in decoder_processes()}
    assert len(decoders) > 1  # another one took over
    assert sorted(f.index for f in finished) == list(range(12))
    assert [f.error for f in finished] == [""] * 12


@pytest.fixture
def broken_model(model_dir: Path, tmp_path: Path) -> Iterator[Path]:
    """A model whose decoder weights are whole, but of another shape than its config says."""
    path = tmp_path / "broken"
    shutil.copytree(model_dir, path)
    config = path / "visual_tokenizer" / "config.json"
    config.write_text(config.read_text().replace('"velocity_width": 32', '"velocity_width": 64'))
    yield path


def test_what_an_actor_finds_wrong_with_the_model_is_told_as_such(broken_model: Path) -> None:
    folder = open_model(broken_model)
    job = Job(folder.path, requests_for(folder, PROMPTS), "png", {})
    with pytest.raises(ModelFolderError, match="weights do not fit the config"):
        list(run_on_ray(job, SMALL))
