"""Whether an error means that this process can use its GPU no more.

After most CUDA errors every later call fails in the same way, whatever it is given: the process has to end. Memory that
ran out is no such error.
"""

from __future__ import annotations

import re

# Some come as plain RuntimeErrors: those of cuBLAS, cuDNN and Triton, and all of older kernels.
_BROKEN = re.compile(
    r"(CUDA|HIP)( driver)? error: |CUDNN_STATUS_\w*(EXECUTION|INTERNAL)|Triton Error \[CUDA\]"
)
_OUT_OF_MEMORY = re.compile(r"out of memory|ALLOC_FAILED", re.IGNORECASE)


def is_broken_device(error: BaseException) -> bool:
    """Of the error itself, or of one that it was raised from."""
    import torch

    seen: BaseException | None = error
    while seen is not None:
        message = str(seen)
        told = isinstance(seen, torch.AcceleratorError) or (
            isinstance(seen, RuntimeError) and _BROKEN.search(message)
        )
        if told and not _OUT_OF_MEMORY.search(message):
            return True
        seen = seen.__cause__
    return False
