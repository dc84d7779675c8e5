"""Writes each request's guidance scale to the row that the request has in vLLM's batch (V1 model runner).

The logits themselves are combined in the model, so `apply` hands them back. The classes also satisfy the V2
runner's interface of the same purpose, where a release has one: there they only check requests, and
`model_state` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from v2flow_engine.guidance import Guidance
from v2flow_vllm.scales import (
    check_choice_of_tokens,
    check_params,
    guidance_of,
    refuse_guidance,
    row_scales,
    upload,
)

if TYPE_CHECKING:
    from vllm import SamplingParams

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as RunnerV2LogitsProcessor
except ImportError:  # releases whose V2 runner takes no logits processors
    INTERFACES: tuple[type, ...] = (LogitsProcessor,)
else:
    INTERFACES = (LogitsProcessor, RunnerV2LogitsProcessor)


class _LeavesLogits(*INTERFACES):  # type: ignore[misc]
    """A processor that changes no logits, in both interfaces."""

    def __init__(self, vllm_config: Any, device_or_states: Any, is_pin_memory: bool | None = None) -> None:
        """V1: (config, device, is_pin_memory); V2: (config, request states)."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse what could leave a row without a visual token to choose."""
        check_choice_of_tokens(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """True: what `apply` returns is what it got."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """V1 interface: nothing to follow."""

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """V2 interface: this processor changes the logits of no request."""
        return False

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Return the logits as they are."""
        return logits


class GuidanceScaleProcessor(_LeavesLogits):
    """Keeps one scale per row as requests join, leave, move and grow."""

    def __init__(self, vllm_config: Any, device_or_states: Any, is_pin_memory: bool | None = None) -> None:
        self.pin_memory = bool(is_pin_memory)
        # By row: the guidance, and the list of the tokens written so far, which vLLM appends to.
        self.guidance: dict[int, tuple[Guidance, list[int]]] = {}
        self.grows = False
        self.rows: torch.Tensor | None = None
        if is_pin_memory is not None:
            max_num_rows = vllm_config.scheduler_config.max_num_seqs
            self.rows = row_scales(vllm_config).open(max_num_rows, device_or_states)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse requests whose guidance is missing or out of range, when they are admitted."""
        super().validate_params(sampling_params)
        check_params(sampling_params)

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Before each step: follow the batch, and write the scales unless they are those of the last step."""
        if self.rows is None:
            return
        changed = process_dict_updates(self.guidance, batch_update, _row_state)
        if changed:
            self.grows = any(guidance.schedule != "constant" for guidance, _ in self.guidance.values())
        if changed or self.grows:
            scales = [1.0] * len(self.rows)
            for row, (guidance, written) in self.guidance.items():
                scales[row] = guidance.at(len(written))
            upload(scales, self.rows, pin_memory=self.pin_memory)


class NoGuidanceProcessor(_LeavesLogits):
    """In an unguided engine: refuses requests that ask for guidance, which would be ignored there."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse when a request is admitted."""
        super().validate_params(sampling_params)
        refuse_guidance(sampling_params)


def _row_state(
    params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]
) -> tuple[Guidance, list[int]]:
    return guidance_of(params), output_ids
