"""Which errors of torch mean that a process has lost its GPU."""

from __future__ import annotations

import pytest
import torch

from v2flow_engine.errors import EngineDeadError, RequestError
from v2flow_engine.offline.broken_device import is_broken_device
from v2flow_engine.offline.stages import batch_or_each

ILLEGAL = (
    "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress' in "
    "https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information."
)


def raised_from(error: Exception) -> Exception:
    """A ValueError with that as its cause."""
    try:
        raise ValueError("a picture failed") from error
    except ValueError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(ILLEGAL),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, ...)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        raised_from(torch.AcceleratorError(ILLEGAL)),
    ],
    ids=repr,
)
def test_a_device_that_is_lost_is_no_rows_fault(error: Exception) -> None:
    assert is_broken_device(error)

    def work(items: object) -> list[int]:
        raise error

    with pytest.raises(EngineDeadError, match="device"):
        batch_or_each(work, [1, 2])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
        RequestError("the prompt says CUDA error: device-side assert triggered"),
        KeyError("CUDA"),
    ],
    ids=repr,
)
def test_any_other_error_is_the_rows(error: Exception) -> None:
    assert not is_broken_device(error)

    def work(items: object) -> list[int]:
        raise error

    assert batch_or_each(work, [1, 2]) == [error, error]
