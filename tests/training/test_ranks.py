"""Two processes and accumulation against one process that does all at once: same losses, same weights, same resume."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.ports import free_ports
from tests.training.tiny_run import write_all
from v2flow_engine.cli import main
from v2flow_engine.errors import DataError, RequestError
from v2flow_engine.training import loop
from v2flow_engine.training.batches import check_batches, epoch_indices, step_parts
from v2flow_engine.training.ranks import Ranks, join

STAGES = ("vae", "tokenizer", "llm")
WEIGHTS = {
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "tokenizer": "visual_tokenizer/model.safetensors",
    "llm": "llm/model.safetensors",
}
CPU = torch.device("cpu")


def command(root: Path, stage: str, out: str, *extra: str, vae: str = "one-vae") -> list[str]:
    """Batches of 5 and sizes of 24 and 12 pictures: nothing divides evenly by 2 or 3."""
    words = ["train", stage, "--data", str(root / "data"), str(root / "wide"), "--out", str(root / out)]
    words += ["--config", str(root / f"{stage}.yaml"), "--device", "cpu", "--workers", "1"]
    words += ["--set", "loop.batch_size=5"]
    if stage != "vae":
        words += ["--vae", str(root / vae / "vae")]
    if stage == "llm":
        words += ["--tokenizer", str(root / "one-tokenizer" / "visual_tokenizer"), "--name", "squares"]
        words += ["--set", "drop_visual=0.5"]
    return [*words, *extra]


def under_torchrun(commands: list[list[str]]) -> subprocess.CompletedProcess:
    """The commands, one after the other, in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ports = [0, *free_ports(len(commands) - 1)]
    return subprocess.run(
        [*launcher, "-m", "tests.training.in_turn", json.dumps(list(zip(ports, commands, strict=True)))],
        capture_output=True,
        text=True,
        env=environment,
        timeout=500,
    )


def curve(run: Path) -> list[dict]:
    """What was reported of each step's batch."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timing = ("images_per_second", "seconds_left")
    return [{k: v for k, v in line.items() if k not in timing} for line in lines if "loss" in line]


def assert_same_run(ours: Path, theirs: Path, stage: str) -> None:
    assert len(curve(theirs)) == 6
    for our, their in zip(curve(ours), curve(theirs), strict=True):
        assert our == pytest.approx(their, rel=5e-4, abs=1e-5)
    mine, other = (load_file(str(run / WEIGHTS[stage])) for run in (ours, theirs))
    assert mine.keys() == other.keys()
    for key, value in other.items():
        # Muon rounds to bfloat16, which can make 1e-4 of 1e-7 in a sum; a step moves weights by about 2e-3.
        difference = (mine[key].double() - value.double()).abs()
        assert difference.mean() < 1e-4 and difference.max() < 2e-3, f"{key} {difference.max()}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one process has trained all three stages, and a copy of its autoencoder without latents."""
    root = tmp_path_factory.mktemp("ranks")
    write_all(root)
    for stage in STAGES:
        assert main(command(root, stage, f"one-{stage}")) == 0
    shutil.copytree(root / "one-vae" / "vae", root / "copied-vae" / "vae")
    return root


@pytest.mark.parametrize("stage", STAGES)
def test_accumulation_changes_nothing(root: Path, stage: str) -> None:
    assert main(command(root, stage, f"parts-{stage}", "--set", "loop.accumulate=3")) == 0
    assert_same_run(root / f"parts-{stage}", root / f"one-{stage}", stage)


@pytest.fixture(scope="module")
def together(root: Path) -> subprocess.CompletedProcess:
    """All that two processes do: three stages, a run that one process has begun, and one that fails in the first."""
    original = loop._save

    def stop_after_first(*args, **kwargs) -> None:
        original(*args, **kwargs)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_save", stop_after_first)
        assert main(command(root, "tokenizer", "resumed", "--set", "loop.accumulate=2")) == 130
    shutil.copytree(root / "one-vae" / "vae", root / "blocked" / "vae")
    (root / "blocked" / "latents").write_text("where the first process wants to make a folder")
    stages = [command(root, stage, f"two-{stage}", vae="copied-vae") for stage in STAGES]
    resumed = command(root, "tokenizer", "resumed")
    return under_torchrun([*stages, resumed, command(root, "tokenizer", "never", vae="blocked")])


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_do_what_one_does(
    root: Path, together: subprocess.CompletedProcess, stage: str
) -> None:
    ends = [line for line in together.stdout.splitlines() if line.startswith("done in")]
    assert sum(line.endswith(f"/two-{stage}") for line in ends) == 1, together.stderr
    assert len(ends) == together.stdout.count("prepared in") == len(STAGES) + 1
    assert_same_run(root / f"two-{stage}", root / f"one-{stage}", stage)


def test_two_processes_go_on_where_one_stopped(root: Path, together: subprocess.CompletedProcess) -> None:
    assert together.stdout.count("at step 3") == 1, together.stderr
    assert_same_run(root / "resumed", root / "one-tokenizer", "tokenizer")


def test_a_process_that_fails_does_not_leave_the_other_waiting(together: subprocess.CompletedProcess) -> None:
    assert together.returncode != 0
    assert "latents: cannot be written" in together.stderr


def test_parts_make_up_the_batch_whatever_their_number() -> None:
    _, expected = epoch_indices([11, 7], 5, 1, 0)
    for world in (1, 2, 3):
        for accumulate in (1, 2, 9):
            parts = [
                part
                for rank in range(world)
                for part in step_parts([11, 7], 5, 1, 0, accumulate, Ranks(CPU, rank, world))
            ]
            assert torch.equal(torch.cat([part.indices for part in parts]), expected)
            assert sum(part.share for part in parts) == pytest.approx(1)
            assert [part.first for part in parts] == [sum(map(len, parts[:i])) for i in range(len(parts))]


def test_a_share_of_a_batch_is_spread_evenly() -> None:
    counts, starts = torch.zeros(24), set()
    for step in range(200):
        whole = step_parts([24], 24, step, 0, 1, Ranks(CPU))[0].evenly(1 / 8)
        parts = [step_parts([24], 24, step, 0, 1, Ranks(CPU, rank, 3))[0].evenly(1 / 8) for rank in range(3)]
        assert torch.equal(torch.cat(parts), whole)
        assert [int(part.sum()) for part in parts] == [1, 1, 1]
        counts += whole
        starts.add(int(whole.nonzero()[0]))
    assert len(starts) == 8 and counts.min() >= 15 and counts.max() <= 37  # of 25 expected each
    some = [int(step_parts([24], 24, step, 0, 1, Ranks(CPU))[0].evenly(0.06).sum()) for step in range(200)]
    assert set(some) == {1, 2} and sum(some) / 200 == pytest.approx(24 * 0.06, abs=0.15)
    assert step_parts([24], 24, 0, 0, 1, Ranks(CPU))[0].evenly(1.0).all()


def test_batches_too_small_to_share_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_batches([24, 3], 8, 3)
    with pytest.raises(DataError, match="4 processes need batches of at least 4, got 3"):
        check_batches([24, 3], 8, 4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="cuda:1"):
        join("cuda:1", 1)
