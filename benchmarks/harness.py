"""What the benchmarks share: runs that take turns, and what the machine is.

Knows nothing of what is measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from v2flow_engine.errors import V2FlowError
from v2flow_engine.evaluation.report import cpu_model, last_line
from v2flow_engine.planning.device_rates import synchronize


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


def printed(
    name: str, run: Callable[[], dict[str, Any]], table: Callable[[dict[str, Any]], str]
) -> dict[str, Any] | None:
    """Run a benchmark and print its table, then its report as one JSON document on the last line.

    Returns the report; None for a mistake in what was given, which is told in one line.
    """
    try:
        report = run()
    except V2FlowError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return None
    print(table(report))
    print(last_line(report))
    return report


def machine(device: str) -> dict[str, str | int]:
    """What it ran on."""
    cuda = torch.device(device).type == "cuda"
    capability = torch.cuda.get_device_capability(device) if cuda else torch.backends.cpu.get_cpu_capability()
    return {
        "device": torch.cuda.get_device_name(device) if cuda else cpu_model(),
        "capability": str(capability),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
