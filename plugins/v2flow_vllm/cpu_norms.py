"""Root-mean-square norms in one kernel each, for engines that run without torch.compile on a CPU.

vLLM's CPU build has these kernels, but its CPU platform counts on the compiler to fuse the seven small operations of
the plain definition. Entered as another provider of vLLM's operations, and put first where nothing compiles.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vllm.config import VllmConfig

PROVIDER = "v2flow_cpu"
OPERATIONS = ("rms_norm", "fused_add_rms_norm")


def provide() -> None:
    """Enter the kernels, in every process that will run a model; safe to call any number of times.

    Does nothing for a release without such operations, or a build without the kernels.
    """
    if not _are_there():
        return
    from vllm import ir
    from vllm.platforms import current_platform

    if PROVIDER in ir.ops.rms_norm.impls:
        return
    current_platform.import_kernels()
    there = all(hasattr(torch.ops._C, name) for name in OPERATIONS)
    ir.ops.rms_norm.register_impl(PROVIDER, supported=there, supports_args=_fits)(_rms_norm)
    ir.ops.fused_add_rms_norm.register_impl(
        PROVIDER, supported=there, supports_args=_fits_with_residual, inplace=True
    )(_fused_add_rms_norm)


def prefer(vllm_config: VllmConfig) -> None:
    """Have an eager engine on a CPU use them, unless its user chose others. Changes `vllm_config` in place."""
    if not _are_there() or not vllm_config.model_config.enforce_eager:
        return
    priority = vllm_config.kernel_config.ir_op_priority
    for name in OPERATIONS:
        if not getattr(priority, name):
            setattr(priority, name, [PROVIDER])


def _are_there() -> bool:
    """Whether this is a CPU, and a release with such operations."""
    from vllm.platforms import current_platform

    return current_platform.is_cpu() and importlib.util.find_spec("vllm.ir") is not None


def _fits(
    x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return variance_size is None and weight is not None and weight.dtype == x.dtype and x.is_contiguous()


def _fits_with_residual(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> bool:
    return _fits(x, weight, epsilon, variance_size) and x_residual.is_contiguous()


def _rms_norm(
    x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
) -> torch.Tensor:
    output = torch.empty_like(x)
    torch.ops._C.rms_norm(output, x, weight, epsilon)
    return output


def _fused_add_rms_norm(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual
