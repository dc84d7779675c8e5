"""Writes each request's guidance scale to the row that the request has in vLLM's batch (V1 model runner).

The logits themselves are combined in the model, so `apply` hands them back. The class also satisfies the V2
runner's interface of the same purpose, where a release has one: there it only checks requests, and
`model_state` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from v2flow_vllm.scales import UNGUIDED, check_params, row_scales, scale_of, upload

if TYPE_CHECKING:
    from vllm import SamplingParams

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as RunnerV2LogitsProcessor
except ImportError:  # releases whose V2 runner takes no logits processors
    INTERFACES: tuple[type, ...] = (LogitsProcessor,)
else:
    INTERFACES = (LogitsProcessor, RunnerV2LogitsProcessor)


class GuidanceScaleProcessor(*INTERFACES):  # type: ignore[misc]
    """Keeps one scale per row as requests join, leave and move."""

    def __init__(self, vllm_config: Any, device_or_states: Any, is_pin_memory: bool | None = None) -> None:
        self.scales: list[float] = []
        self.rows: torch.Tensor | None = None
        self.pin_memory = bool(is_pin_memory)
        if is_pin_memory is not None:  # V1: (config, device, is_pin_memory); V2: (config, request states)
            max_num_rows = vllm_config.scheduler_config.max_num_seqs
            self.scales = [UNGUIDED] * max_num_rows
            self.rows = row_scales(vllm_config).open(max_num_rows, device_or_states)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse requests whose scale is missing or out of range, when they are admitted."""
        check_params(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """True: what `apply` returns is what it got."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch: removed, then added, then moved, as vLLM prescribes."""
        if batch_update is None or self.rows is None:
            return
        for row in batch_update.removed:
            self.scales[row] = UNGUIDED
        for row, params, *_ in batch_update.added:
            self.scales[row] = scale_of(params)
        for source, target, direction in batch_update.moved:
            moved, displaced = self.scales[source], self.scales[target]
            self.scales[target] = moved
            self.scales[source] = displaced if direction == MoveDirectionality.SWAP else UNGUIDED
        upload(self.scales, self.rows, pin_memory=self.pin_memory)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """V2 interface: this processor changes the logits of no request."""
        return False

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Return the logits as they are; `compute_logits` has guided them."""
        return logits
