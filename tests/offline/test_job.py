"""The Ray Data path on a tiny model: the same pictures as without Ray, and none lost with its worker or its source.

Faults are real ones: SIGKILL from outside, and an actor that ends its own process at a certain prompt. Every test here
needs a cluster, and none elsewhere, so that it is started once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from benchmarks.processes import started_by
from tests.offline.folder import check_folder
from tests.offline.rows import TOO_LONG, write_rows
from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.cli import main
from v2flow_engine.errors import DataError, EngineDeadError, ModelFolderError
from v2flow_engine.generation.image_request import ImageRequest, plan_requests
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.offline import command, job
from v2flow_engine.offline.actors import ActorConfig, DecoderActor, TokenActor
from v2flow_engine.offline.feed import worker_name
from v2flow_engine.offline.job import RayRun
from v2flow_engine.offline.prepare import GenerateJob, check
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


def run_for(folder: ModelFolder, **identity: str) -> RayRun:
    """A run on the cluster."""
    return RayRun(ActorConfig(str(folder.path), "cpu", "png", identity, guided=True))


def pixels(finished: FinishedImage) -> np.ndarray:
    """(H, W, 3) as int, for differences."""
    return np.asarray(Image.open(io.BytesIO(finished.image))).astype(int)


def test_killed_actors_lose_nothing_and_change_no_picture(folder: ModelFolder) -> None:
    """Beside rows that are bad, and before the source itself breaks, which is told when all else is finished."""
    requests = requests_for(folder, [PROMPTS[0], TOO_LONG, *PROMPTS[1:]])

    def vanishing() -> Iterator[ImageRequest]:
        yield from requests
        raise DataError("rows.txt: gone")

    run = run_for(folder)
    stream = run.images(vanishing(), SMALL)
    finished = [next(stream)]
    pids: dict[str, set[int]] = {"TokenActor": set(), "DecoderActor": set()}
    for kind, known in pids.items():
        (actor,) = started_by(os.getpid(), kind)
        os.kill(actor.pid, signal.SIGKILL)
        known.add(actor.pid)
    with pytest.raises(DataError, match="gone"):
        for each in stream:
            finished.append(each)
            for kind, known in pids.items():
                known.update(process.pid for process in started_by(os.getpid(), kind))
    assert min(map(len, pids.values())) > 1  # others took over
    assert sorted(f.index for f in finished) == list(range(16))  # each once
    assert run.outstanding == {}
    on_ray = {f.index: f for f in finished}
    here = {f.index: f for f in run_here(folder.path, requests, "png", {})}
    for index in range(4, 8):
        assert on_ray[index].error == here[index].error != ""
    for index in (*range(4), *range(8, 16)):
        assert np.abs(pixels(on_ray[index]) - pixels(here[index])).max() <= 1


def test_a_job_on_ray_keeps_what_came_before_its_source_vanished_and_goes_on(
    model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the source is gone when the job has been checked. All paths in the command are relative."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_dir, "model")
    out, second = Path("out"), Path("rows/2.jsonl")
    second.parent.mkdir()
    write_rows(Path("rows/1.jsonl"), *({"prompt": f"cat {number}"} for number in range(10)))
    write_rows(second, {"prompt": TOO_LONG, "n": 2}, {"prompt": "a dog"}, {"prompt": "an owl"})
    argv = ["generate", "--model", "model", "--prompts", "rows", "--out", "out"]

    def check_and_lose(args: argparse.Namespace) -> GenerateJob:
        job = check(args)
        second.rename("elsewhere")
        return job

    with monkeypatch.context() as context:
        context.setattr(command, "check", check_and_lose)
        assert main(argv) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("14 images through Ray Data")
    assert (
        f"stopped: {second.absolute()}: cannot read prompts (No such file); 10 images of 14 kept, run it"
        in captured.err
    )
    assert sorted(line["id"] for line in check_folder(out, 10)) == list(range(10))
    last = json.loads((out / "metrics.json").read_text())["history"][-1]
    assert (last["made"], last["tokens"], set(last["queues"].values())) == (10, 10 * 16, {0})
    first = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}

    Path("elsewhere").rename(second)
    assert main([*argv, "--max-errors", "2"]) == 1  # both copies are too long
    check_folder(out, 12)
    assert len((out / "errors.jsonl").read_text().splitlines()) == 2
    assert first.items() <= {path: path.stat().st_mtime_ns for path in out.glob("*.png")}.items()


# What decides is in test_backlog.py; here, with processes that die in dozens.
in_full = pytest.mark.skipif(
    "V2FLOW_TEST_CLUSTER" not in os.environ, reason="takes minutes: V2FLOW_TEST_CLUSTER=1 runs it"
)


class Late:
    """An actor that loads its model when it first needs it: many of them die before."""

    def __init__(self, config: ActorConfig, feed: Any) -> None:
        self.arguments: tuple[Any, ...] | None = (config, feed)
        self.feed, self.worker = feed, worker_name()

    def _make(self, number: int, data: bytes) -> bytes:
        if self.arguments is not None:
            super().__init__(*self.arguments)
            self.arguments = None
        return super()._make(number, data)


class Poisoned(Late, TokenActor):
    """Ends its process at a certain prompt, as a crash inside a library would."""

    def _make(self, number: int, data: bytes) -> bytes:
        if any(request.prompt == "poison" for request in pickle.loads(data)):
            os._exit(1)
        return super()._make(number, data)


class LateDecoder(Late, DecoderActor):
    """The real one, later."""


def test_a_row_that_kills_its_worker_costs_itself_alone(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "TokenActor", Poisoned)
    monkeypatch.setattr(job, "DecoderActor", LateDecoder)
    parameters = GenerationParameters.resolve(folder)
    requests = plan_requests(["poison", "a cat", "a dog"], parameters, seed=1)  # one batch, lost as a whole
    finished = {f.index: f for f in run_for(folder).images(iter(requests), SMALL)}
    assert sorted(finished) == [0, 1, 2]
    assert [bool(finished[index].error) for index in range(3)] == [True, False, False]
    assert "lost: its worker died 2 times with it alone" in finished[0].error


@in_full
@pytest.mark.slow
def test_more_rows_that_kill_than_a_pass_may_lose_cost_themselves_alone(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come first: the pipeline breaks before any picture is there. `test_backlog` has many of them."""
    monkeypatch.setattr(job, "MAX_LOST_BATCHES", 1)  # a worker that dies costs seconds
    monkeypatch.setattr(job, "TokenActor", Poisoned)
    monkeypatch.setattr(job, "DecoderActor", LateDecoder)
    prompts = ["poison", "a cat", "poison", "a dog", "an owl", "a fox"]
    requests = plan_requests(prompts, GenerationParameters.resolve(folder), seed=1)
    run = run_for(folder)
    finished = list(run.images(iter(requests), replace(SMALL, rows_per_batch=2)))
    assert {f.index: bool(f.error) for f in finished} == dict(enumerate(p == "poison" for p in prompts))
    assert len(finished) == len(prompts)
    assert run.outstanding == {}


class Dead(Late, TokenActor):
    """Ends its process whatever it is given."""

    def _make(self, number: int, data: bytes) -> bytes:
        os._exit(1)


@in_full
@pytest.mark.slow
def test_workers_that_die_at_every_batch_end_the_job_without_errors_of_rows(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "TokenActor", Dead)
    monkeypatch.setattr(job, "DecoderActor", LateDecoder)
    said: list[str] = []
    run = run_for(folder)
    run.say = said.append
    finished = []
    with pytest.raises(EngineDeadError):
        finished.extend(run.images(requests_for(folder, ["a cat"] * 10), SMALL))
    assert finished == []
    assert len(said) <= 4


def test_a_feed_that_dies_is_a_pipeline_that_broke(folder: ModelFolder) -> None:
    said: list[str] = []
    run = run_for(folder)
    run.say = said.append
    requests = requests_for(folder, ["a cat"] * 20)  # more than are fed at once
    finished = []
    for each in run.images(iter(requests), SMALL):
        finished.append(each)
        if len(finished) == 1:
            ray.kill(run._feed)
    assert sorted(f.index for f in finished) == list(range(80))
    assert not any(f.error for f in finished)
    assert "the pipeline broke" in said[0]


def test_a_decoder_that_lost_its_device_is_replaced_and_its_rows_are_made(
    folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "broken"

    class Unlucky(DecoderActor):
        """The first one's device breaks at the first batch, and stays so."""

        def _make(self, number: int, data: bytes) -> bytes:
            if not marker.exists():
                marker.touch()
                self.decoder.step = self.decoder.decode = broken
            return super()._make(number, data)

    def broken(*arguments: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(job, "DecoderActor", Unlucky)
    finished = list(run_for(folder).images(requests_for(folder, PROMPTS), SMALL))
    assert marker.exists()
    assert sorted(f.index for f in finished) == list(range(12))
    assert not any(f.error for f in finished)


def test_what_an_actor_finds_wrong_with_the_model_is_told_as_such(folder: ModelFolder) -> None:
    """On a node whose model is another one."""
    with pytest.raises(ModelFolderError, match=r"^on \S+: .* has digest \w+, the driver's has another"):
        list(run_for(folder, model_digest="another").images(requests_for(folder, PROMPTS), SMALL))


@pytest.mark.parametrize("resources", [{"CPU": 2.0}, {"GPU": 1.0}], ids=str)
def test_the_only_node_beside_a_head_without_cpus_is_asked(
    resources: dict[str, float],
    model_dir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray tells of a node that is gone when it is asked, so that its answer cannot come."""
    (head,) = ray.nodes()
    node = head | {"NodeID": 56 * "0", "NodeManagerAddress": "192.0.2.1", "NodeManagerHostname": "gone"}
    told = [head | {"Resources": {}}, node | {"Resources": resources}]
    monkeypatch.setattr(ray, "nodes", lambda: told)
    argv = ["generate", "--model", str(model_dir), "--prompt", "a cat", "--token-actors", "1"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 1
    assert "stopped: node 192.0.2.1 (gone): " in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_batch_invariant_kernels_are_refused_without_a_gpu(
    model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = [
        "generate",
        "--model",
        str(model_dir),
        "--prompt",
        "a cat",
        "--batch-invariant",
        "--out",
        str(out),
    ]
    assert main(argv) == 2
    assert "--batch-invariant: vLLM has such kernels for GPUs alone" in capfd.readouterr().err
    assert not out.exists()
