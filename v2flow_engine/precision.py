"""What the networks of both stages compute in: the names that users give, and the torch dtypes they stand for."""

from __future__ import annotations

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


def check_dtype(name: str) -> str:
    """The name itself. Raises `RequestError` for an unknown one."""
    if name not in DTYPES:
        raise RequestError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    return name


def named_dtype(name: str) -> dict[str, Any]:
    """What a picture's parameters say of it: nothing for "auto", which is the machine's choice."""
    return {} if check_dtype(name) == "auto" else {"dtype": name}
