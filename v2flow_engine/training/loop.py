"""The loop that all three trainings share: steps, learning rate, EMA, progress, checkpoints, exact resume.

Everything random in a step comes from (seed, step), so a resumed run continues as if it had not been stopped. Knows
nothing of what is trained: that is a `Stage`.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from v2flow_engine.errors import DataError, OutputError

CHECKPOINT = "checkpoint.pth"


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast. `*_every` count steps; warmup and learning rate are of AdamW; the decay is a cosine."""

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
    bf16: bool = True
    compile: bool = False


class Stage(ABC):
    """What is trained. `net` holds every trained weight; its EMA is what is evaluated and exported."""

    net: nn.Module

    @abstractmethod
    def loss(self, step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """One batch's losses; `"loss"` is minimised, the others are reported. Called under autocast."""

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

    def after_step(self, step: int, generator: torch.Generator) -> None:  # noqa: B027
        """Called after each optimizer step."""

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
    stage: Stage, config: LoopConfig, run_dir: Path, device: torch.device, identity: dict[str, Any]
) -> None:
    """Train to the end, resuming from the run's checkpoint if there is one, then export.

    Args:
        identity: what must be equal for a resume to make sense; kept in the checkpoint.
    """
    ema = copy.deepcopy(stage.net).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(
        stage.parameter_groups(config.weight_decay),
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        fused=True,
    )
    first = _resume(stage, ema, optimizer, run_dir, identity)
    if config.compile:
        stage.compile()
    progress = _Progress(config, run_dir, first)
    for step in range(first, config.steps):
        losses = _step(stage, optimizer, config, step, device)
        _update_ema(ema, stage.net, min(config.ema_decay, (1 + step) / (10 + step)))
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            progress.report(done, losses)
        if done % config.sample_every == 0 or done == config.steps:
            progress.record({"step": done, **stage.evaluate(ema)})
            stage.sample_sheet(ema, run_dir / "samples" / f"{done:07d}.png")
            progress.restart_clock(done)
        if done % config.checkpoint_every == 0 or done == config.steps:
            _save(stage, ema, optimizer, run_dir, identity, done)
    stage.export(ema, run_dir)


def _step(
    stage: Stage, optimizer: torch.optim.Optimizer, config: LoopConfig, step: int, device: torch.device
) -> dict[str, torch.Tensor]:
    seed = (config.seed << 32) + step
    torch.manual_seed(seed)  # for dropout
    generator = torch.Generator(device).manual_seed(seed)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    stage.net.train()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16):
        losses = stage.loss(step, generator)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    nn.utils.clip_grad_norm_(stage.net.parameters(), config.clip)
    optimizer.step()
    stage.after_step(step, torch.Generator().manual_seed(seed))
    return losses


@torch.no_grad()
def _update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    averages, values = list(ema.parameters()), list(net.parameters())
    torch._foreach_lerp_(averages, values, 1 - decay)
    for average, value in zip(ema.buffers(), net.buffers(), strict=True):
        average.copy_(value)


def _save(
    stage: Stage,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
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
    stage: Stage, ema: nn.Module, optimizer: torch.optim.Optimizer, run_dir: Path, identity: dict[str, Any]
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
    differing = {
        key: (was, identity.get(key))
        for key, was in json.loads(state["identity"]).items()
        if json.loads(json.dumps(identity.get(key))) != was
    }
    if differing:
        raise OutputError(
            f"{run_dir} holds another run; it differs in {differing} (there, here); use another folder"
        )
    stage.net.load_state_dict(state["net"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    for name, module in stage.state_modules().items():
        module.load_state_dict(state["modules"][name])
    print(f"resuming {run_dir} at step {state['step']}", flush=True)
    return int(state["step"])


class _Progress:
    """Prints a line, and appends it to metrics.jsonl."""

    def __init__(self, config: LoopConfig, run_dir: Path, first: int) -> None:
        self.config, self.path = config, run_dir / "metrics.jsonl"
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
        text = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(text.replace("step ", f"step {' ' * (7 - len(str(values['step'])))}", 1), flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def epoch_indices(count: int, batch_size: int, step: int, seed: int) -> torch.Tensor:
    """The batch of a step, (batch_size,) int64: shuffled epochs without replacement, a function of (seed, step)."""
    batch_size = min(batch_size, count)
    per_epoch = count // batch_size
    epoch, place = divmod(step, per_epoch)
    permutation = _permutation(count, (seed << 20) + epoch)
    return permutation[place * batch_size : (place + 1) * batch_size]


_LAST_PERMUTATION: tuple[tuple[int, int], torch.Tensor] | None = None


def _permutation(count: int, seed: int) -> torch.Tensor:
    global _LAST_PERMUTATION
    if _LAST_PERMUTATION is None or _LAST_PERMUTATION[0] != (count, seed):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        _LAST_PERMUTATION = ((count, seed), order)
    return _LAST_PERMUTATION[1]
