"""Writes each request's guidance scale to its row (V2 model runner): slot -> row, on the device, every step.

The V2 runner lets a model bring its own state: requests enter by slot, and a step's rows are some of the
slots in any order.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from v2flow_vllm.scales import UNGUIDED, row_scales, scale_of, upload


class GuidedModelState(DefaultModelState):
    """vLLM's state of a plain decoder, and one scale per request slot."""

    def __init__(self, vllm_config: Any, model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(vllm_config, model, *args, **kwargs)
        self.slot_scales = [UNGUIDED] * self.max_num_reqs
        self.row_scales = row_scales(vllm_config).open(self.max_num_reqs, self.device)
        self.device_slot_scales = torch.ones_like(self.row_scales)
        self.changed = False

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Note the scale of the request that takes a slot."""
        super().add_request(req_index, new_req_data)
        self.slot_scales[req_index] = scale_of(new_req_data.sampling_params)
        self.changed = True

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """Before a step's forward pass: order the scales as the step's rows."""
        if self.changed:
            upload(self.slot_scales, self.device_slot_scales, pin_memory=self.device.type == "cuda")
            self.changed = False
        slots = input_batch.idx_mapping
        self.row_scales[: len(slots)] = self.device_slot_scales[slots.long()]
        return super().prepare_inputs(input_batch, req_states)
