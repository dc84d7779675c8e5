"""What the benchmarks share: runs that take turns, the machine's own rates, and what the machine is.

Knows nothing of what is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from benchmarks.decoder_counts import matmul_rate, synchronize
from v2flow_engine.evaluation.report import cpu_model

__all__ = ["machine", "matmul_rate", "memory_rate", "synchronize", "take_turns"]


def take_turns(
    runs: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each run, `repeats` times: the runs take turns, so that a busy machine slows all of them.

    The first turn warms up and is not in it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def memory_rate(device: str, mebibytes: int = 512, repeats: int = 5) -> float:
    """Bytes per second read and written by a copy, the median."""
    source = torch.ones(mebibytes * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    copy = take_turns({"copy": lambda: target.copy_(source)}, repeats, device)["copy"]
    return 2.0 * source.nbytes / statistics.median(copy)


def machine(device: str) -> dict[str, str | int]:
    """What it ran on."""
    cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
