"""Writes each request's guidance scale to its row (V2 model runner): slot -> row, on the device, every step.

The V2 runner lets a model bring its own state: requests enter by slot, and a step's rows are some of the
slots in any order.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from v2flow_engine.guidance import UNGUIDED, Guidance
from v2flow_vllm.scales import guidance_of, row_scales


class GuidedModelState(DefaultModelState):
    """vLLM's state of a plain decoder, and the guidance of each request slot."""

    def __init__(self, vllm_config: Any, model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(vllm_config, model, *args, **kwargs)
        self.row_scales = row_scales(vllm_config).open(self.max_num_reqs, self.device)
        self.slots = [slot_values(UNGUIDED, 0)] * self.max_num_reqs
        self.device_slots = torch.tensor(self.slots, dtype=torch.float32, device=self.device)
        self.changed = False

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Note the guidance of the request that takes a slot."""
        super().add_request(req_index, new_req_data)
        guidance = guidance_of(new_req_data.sampling_params)
        self.slots[req_index] = slot_values(guidance, len(new_req_data.prompt_token_ids or ()))
        self.changed = True

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """Before a step's forward pass: write the scales in the order of the step's rows."""
        if self.changed:
            host = torch.tensor(self.slots, dtype=torch.float32, pin_memory=self.device.type == "cuda")
            self.device_slots.copy_(host, non_blocking=True)
            self.changed = False
        slots = input_batch.idx_mapping
        values = self.device_slots[slots.long()]
        self.row_scales[: len(slots)] = scales_at(values, input_batch.seq_lens[: len(slots)])
        return super().prepare_inputs(input_batch, req_states)


def slot_values(guidance: Guidance, prompt_length: int) -> tuple[float, float, float]:
    """(scale, first, S): with n tokens in a sequence, prompt included, the share applied is (n + first) / S."""
    if guidance.schedule == "constant":
        return (guidance.scale, 1.0, 1.0)  # a share of 1 and more, whatever the length
    return (guidance.scale, float(guidance.start + 1 - prompt_length), float(guidance.num_visual_tokens))


def scales_at(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """slot values (R, 3), tokens of each sequence, this step's included (R,) -> scales (R, 1), as `Guidance.at`."""
    scales, first, count = values.split(1, dim=1)
    share = ((lengths[:, None] + first) / count).clamp(0.0, 1.0)
    return torch.lerp(torch.ones_like(scales), scales, share)  # at a share of 1 exactly the scale
