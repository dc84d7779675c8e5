"""The guidance scale of every row of a step: written by the engine's side, read by `compute_logits`.

One object per engine, found through the engine's config, because vLLM builds the two sides separately.
Knows neither the model nor which of vLLM's model runners is at work.
"""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

SCALE_KEY = "guidance_scale"
MAX_SCALE = 100.0
UNGUIDED = 1.0


class RowScales:
    """Guidance scales in the order of the logits' rows.

    `rows` is None until something writes it. A guided model without a writer would ignore the scales that
    requests ask for, so reading then fails.
    """

    def __init__(self) -> None:
        self.rows: torch.Tensor | None = None

    def open(self, max_num_rows: int, device: torch.device) -> torch.Tensor:
        """Allocate the (max_num_rows, 1) float32 buffer, all ones, and return it for writing."""
        self.rows = torch.full((max_num_rows, 1), UNGUIDED, dtype=torch.float32, device=device)
        return self.rows

    def first(self, num_rows: int) -> torch.Tensor:
        """The scales (num_rows, 1) of this step's logits."""
        if self.rows is None:
            raise RuntimeError(
                "guidance scales do not reach this model: start the engine with v2flow_vllm.engine_kwargs()"
            )
        if num_rows > len(self.rows):
            raise RuntimeError(
                f"{num_rows} rows of logits for {len(self.rows)} requests: prompt log-probabilities and "
                "speculative decoding cannot be guided"
            )
        return self.rows[:num_rows]


_SCALES: dict[int, RowScales] = {}


def row_scales(vllm_config: VllmConfig) -> RowScales:
    """The scales of the engine that this config belongs to; made on first use, dropped with the config."""
    key = id(vllm_config)
    if key not in _SCALES:
        _SCALES[key] = RowScales()
        weakref.finalize(vllm_config, _SCALES.pop, key, None)
    return _SCALES[key]


def upload(scales: list[float], rows: torch.Tensor, *, pin_memory: bool) -> None:
    """Copy `scales` into `rows` (len(scales), 1), in the device's order of work and without waiting."""
    host = torch.tensor(scales, dtype=torch.float32, pin_memory=pin_memory)
    rows.copy_(host.unsqueeze(1), non_blocking=True)


def scale_of(params: SamplingParams | None) -> float:
    """A request's guidance scale; vLLM's own warm-up requests have none and count as unguided."""
    extra_args: dict[str, Any] = (params.extra_args if params is not None else None) or {}
    return float(extra_args.get(SCALE_KEY, UNGUIDED))


def check_params(params: SamplingParams) -> None:
    """Raise `ValueError` unless a request has a usable scale and asks for nothing that cannot be guided."""
    scale = (params.extra_args or {}).get(SCALE_KEY)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise ValueError(f"extra_args must hold a number as {SCALE_KEY!r}, got {scale!r}")
    if not (math.isfinite(scale) and 0.0 <= scale <= MAX_SCALE):
        raise ValueError(f"{SCALE_KEY} must lie in [0, {MAX_SCALE:g}], got {scale!r}")
    if params.prompt_logprobs is not None:
        raise ValueError("prompt_logprobs is not available: the rows of a prompt are not guided")
