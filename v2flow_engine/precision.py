"""What the networks of both stages compute in: the names that users give, and the torch dtypes they stand for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import RequestError

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16")
DTYPE_HELP = "of both networks; auto is float32 on a CPU and bfloat16 on a GPU (default: %(default)s)"


def decoder_dtype(name: str, device: str | torch.device) -> torch.dtype:
    """The dtype of a decoder on `device`; "auto" as in vLLM's plugin here. Raises `RequestError`."""
    import torch

    check_dtype(name)
    if name == "auto":
        name = "float32" if torch.device(device).type == "cpu" else "bfloat16"
    return getattr(torch, name)


def bfloat16_is_faster(device: str | torch.device) -> bool:
    """Whether products of matrices are: yes on a GPU; on a CPU it is measured, in half a second at most.

    CPUs with units for bfloat16 (AMX, AVX512-BF16) may be twice as fast in it, and others are a hundred times slower.
    """
    import torch

    if torch.device(device).type != "cpu":
        return True

    def seconds(dtype: torch.dtype, least: float = 0.0) -> float:
        matrix, taken = torch.ones(512, 512, dtype=dtype), []
        for _ in range(6):
            start = time.perf_counter()
            matrix @ matrix
            taken.append(time.perf_counter() - start)
            if least and taken[-1] > 20 * least:  # even a first call, which prepares, is not that slow
                break
        return min(taken)

    single = seconds(torch.float32)
    return seconds(torch.bfloat16, single) < single


def check_dtype(name: str) -> str:
    """The name itself. Raises `RequestError` for an unknown one."""
    if name not in DTYPES:
        raise RequestError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    return name


def named_dtype(name: str) -> dict[str, Any]:
    """What a picture's parameters say of it: nothing for "auto", which is the machine's choice."""
    return {} if check_dtype(name) == "auto" else {"dtype": name}
