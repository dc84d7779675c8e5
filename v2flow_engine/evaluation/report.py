"""Results -> a readable table, and one JSON document on the last line of a command's output.

Knows the machine it runs on, and nothing of what was measured.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from v2flow_engine.cores import usable_cores


def machine(device: str = "cpu") -> dict[str, Any]:
    """What numbers were measured on: processor, cores that may be used, memory in GiB, device, versions."""
    import torch

    on_gpu = torch.device(device).type == "cuda"
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "device": torch.cuda.get_device_name(torch.device(device)) if on_gpu else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system tells it."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their widest cell: the first to the left, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    return "\n".join(_line(row, widths) for row in [list(header), ["-" * width for width in widths], *cells])


def last_line(document: Mapping[str, Any]) -> str:
    """The document as strict JSON on one line; numbers that JSON does not have become null."""
    return json.dumps(_finite(document), allow_nan=False)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
