"""The loop that all three trainings share: steps, learning rate, EMA, progress, checkpoints, exact resume.

Everything random in a step comes from (seed, step), so a resumed run continues as if it had not been stopped. With
several processes each computes its parts of the step's batch (`batches.py`) and gradients are added up; then all take
the same optimizer step, and the first one alone prints and writes. Knows nothing of what is trained: that is a `Stage`.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from v2flow_engine.errors import DataError, OutputError
from v2flow_engine.training.batches import BatchPart, check_batches, step_parts
from v2flow_engine.training.draws import mixed_seed
from v2flow_engine.training.optimizer import MuonAdamW
from v2flow_engine.training.ranks import Ranks
from v2flow_engine.training.same_run import what_differs

CHECKPOINT = "checkpoint.pth"


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast. `*_every` count steps; the learning rate warms up, then falls along a cosine.

    batch_size: samples of a step, over all processes. accumulate: each process computes its share of them in this many
        parts, one after the other, which changes the memory that is needed and not the result.
    bf16: networks compute in bfloat16 where autocast allows it; weights and optimizer stay in float32. None leaves it
        to `v2flow train`: where it is faster on this machine.
    muon: matrices are trained with Muon, not AdamW (training/optimizer.py).
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    final_share: float = 0.02
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip: float = 1.0
    ema_decay: float = 0.999
    log_every: int = 50
    checkpoint_every: int = 1000
    sample_every: int = 2000
    seed: int = 0
    bf16: bool | None = None
    compile: bool = False
    muon: bool = True
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.batch_size < 1:
            raise DataError(
                f"loop: accumulate and batch_size must be at least 1, got {self.accumulate} and {self.batch_size}"
            )

    def autocast(self, device: torch.device) -> torch.autocast:
        """What networks compute under."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(self.bf16))


class Stage(ABC):
    """What is trained. `net` holds every trained weight; its EMA is what is evaluated and exported."""

    net: nn.Module
    device: torch.device

    @property
    @abstractmethod
    def counts(self) -> list[int]:
        """Samples of each training set."""

    @abstractmethod
    def loss(self, part: BatchPart) -> dict[str, torch.Tensor]:
        """Losses of some samples, each a mean over them; `"loss"` is minimised, the others are reported.

        What is random comes from `part.draws`; what looks at the whole batch belongs in `after_step`. Called under
        autocast.
        """

    @abstractmethod
    def evaluate(self, ema: nn.Module) -> dict[str, float]:
        """Numbers on held-out data."""

    @abstractmethod
    def sample_sheet(self, ema: nn.Module, path: Path) -> None:
        """A picture of what the model can do now."""

    @abstractmethod
    def export(self, ema: nn.Module, run_dir: Path) -> None:
        """Write the result below the run's folder."""

    def compile(self) -> None:  # noqa: B027 (a hook, not a duty)
        """Compile what profits from it (`LoopConfig.compile`); called once, after the EMA was copied."""

    def before_step(self, parts: Sequence[BatchPart], ranks: Ranks) -> None:  # noqa: B027
        """Called before the losses of this process's parts, under autocast."""

    def after_step(self, step: int, ranks: Ranks) -> dict[str, torch.Tensor]:
        """Called after each optimizer step; returns numbers on the whole batch to report, the same in all processes."""
        return {}

    def state_modules(self) -> dict[str, nn.Module]:
        """Modules besides `net` whose state a checkpoint needs."""
        return {}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Matrices decay, vectors and embeddings do not."""
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        return [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_share` of the peak."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.final_share + (1 - config.final_share) * cosine)


def train(
    stage: Stage,
    config: LoopConfig,
    run_dir: Path,
    identity: dict[str, Any],
    ranks: Ranks | None = None,
) -> None:
    """Train to the end, resuming from the run's checkpoint if there is one, then export.

    Args:
        identity: what must be equal for a resume to make sense, but for `same_run.FREE`; kept in the checkpoint. The
            number of processes may change, too. A run of more steps goes on where it ended, with the learning rate of
            the longer cosine.
        ranks: the processes that train together; None is one alone, on the stage's device.
    """
    ranks = ranks or Ranks(stage.device)
    check_batches(stage.counts, config.batch_size, ranks.world)
    ema = copy.deepcopy(stage.net).requires_grad_(False).eval()
    optimizer = MuonAdamW(
        stage.parameter_groups(config.weight_decay),
        config.learning_rate,
        config.beta2,
        stage.net if config.muon else None,
        bool(config.bf16),
    )
    first = _resume(stage, ema, optimizer, run_dir, identity, ranks)
    ranks.check_equal("step to start from and pictures", (first, stage.counts))
    if config.compile:
        stage.compile()
    progress = _Progress(config, run_dir, first, ranks)
    for step in range(first, config.steps):
        losses = _step(stage, optimizer, config, step, ranks)
        _update_ema(ema, stage.net, min(config.ema_decay, (1 + step) / (10 + step)))
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            progress.report(done, losses)
        if not ranks.is_first:  # the others wait for its part of the next step
            continue
        if done % config.sample_every == 0 or done == config.steps:
            progress.record({"step": done, **stage.evaluate(ema)})
            stage.sample_sheet(ema, run_dir / "samples" / f"{done:07d}.png")
            progress.restart_clock(done)
        if done % config.checkpoint_every == 0 or done == config.steps:
            _save(stage, ema, optimizer, run_dir, identity, done)
    if ranks.is_first:
        stage.export(ema, run_dir)
    ranks.wait()


def _step(
    stage: Stage, optimizer: MuonAdamW, config: LoopConfig, step: int, ranks: Ranks
) -> dict[str, torch.Tensor]:
    """One optimizer step; returns the numbers to report, of the whole batch."""
    parts = step_parts(stage.counts, config.batch_size, step, config.seed, config.accumulate, ranks)
    autocast = config.autocast(stage.device)
    stage.net.train()
    with autocast:
        stage.before_step(parts, ranks)
    losses: dict[str, torch.Tensor] = {}
    for part in parts:
        # For dropout inside a network, the one thing that is drawn for a part and not for a sample.
        torch.manual_seed(mixed_seed(config.seed, step, part.first))
        with autocast:
            values = stage.loss(part)
        (part.share * values["loss"]).backward()
        for key, value in values.items():
            losses[key] = losses.get(key, 0.0) + part.share * value.detach().float()
    ranks.add_up_gradients(stage.net)
    ranks.add_up(losses.values())
    nn.utils.clip_grad_norm_(stage.net.parameters(), config.clip)
    optimizer.step(learning_rate(config, step))
    return losses | stage.after_step(step, ranks)


@torch.no_grad()
def _update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    # What is frozen is in the average already.
    pairs = [pair for pair in zip(ema.parameters(), net.parameters(), strict=True) if pair[1].requires_grad]
    averages, values = zip(*pairs, strict=True)
    torch._foreach_lerp_(averages, values, 1 - decay)
    for average, value in zip(ema.buffers(), net.buffers(), strict=True):
        average.copy_(value)


def _save(
    stage: Stage,
    ema: nn.Module,
    optimizer: MuonAdamW,
    run_dir: Path,
    identity: dict[str, Any],
    step: int,
) -> None:
    state = {
        "step": step,
        "identity": json.dumps(identity, sort_keys=True),
        "net": stage.net.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "modules": {name: module.state_dict() for name, module in stage.state_modules().items()},
    }
    temporary = run_dir / f"{CHECKPOINT}.tmp"
    torch.save(state, temporary)
    os.replace(temporary, run_dir / CHECKPOINT)


def _resume(
    stage: Stage,
    ema: nn.Module,
    optimizer: MuonAdamW,
    run_dir: Path,
    identity: dict[str, Any],
    ranks: Ranks,
) -> int:
    path = run_dir / CHECKPOINT
    try:
        (run_dir / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{run_dir}: cannot be written ({error})") from error
    if not path.is_file():
        return 0
    device = next(stage.net.parameters()).device
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise DataError(f"{path}: not a readable checkpoint ({error})") from error
    if differing := what_differs(json.loads(state["identity"]), identity):
        raise OutputError(f"{run_dir} holds another run: {'; '.join(differing)}; use another folder")
    expected = (stage.net.state_dict().keys(), stage.state_modules().keys())
    if (state["net"].keys(), state["modules"].keys()) != expected:
        raise OutputError(f"{path}: written by another version of this program; use another folder")
    stage.net.load_state_dict(state["net"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    for name, module in stage.state_modules().items():
        module.load_state_dict(state["modules"][name])
    ranks.say(f"resuming {run_dir} at step {state['step']}")
    return int(state["step"])


class _Progress:
    """Prints a line, and appends it to metrics.jsonl, in the first process; all of them see a loss that is lost."""

    def __init__(self, config: LoopConfig, run_dir: Path, first: int, ranks: Ranks) -> None:
        self.config, self.path, self.ranks = config, run_dir / "metrics.jsonl", ranks
        self.restart_clock(first)

    def restart_clock(self, step: int) -> None:
        """Leave evaluation out of the throughput."""
        self.since, self.clock = step, time.perf_counter()

    def report(self, step: int, losses: dict[str, torch.Tensor]) -> None:
        values = {key: float(value.detach()) for key, value in losses.items()}
        if not math.isfinite(values["loss"]):
            raise DataError(f"the loss is {values['loss']} at step {step}; lower the learning rate")
        elapsed = time.perf_counter() - self.clock
        rate = (step - self.since) * self.config.batch_size / elapsed
        left = (self.config.steps - step) * self.config.batch_size / rate
        self.record({"step": step, **values, "images_per_second": rate, "seconds_left": left})
        self.restart_clock(step)

    def record(self, values: dict[str, float]) -> None:
        if not self.ranks.is_first:
            return
        text = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(text.replace("step ", f"step {' ' * (7 - len(str(values['step'])))}", 1), flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
