"""The guidance scale of every row of a step: written by the engine's side, read by `compute_logits`.

One object per engine, found through the engine's config, because vLLM builds the two sides separately.
Knows neither the model nor which of vLLM's model runners is at work.
"""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import torch

from v2flow_engine.config import MAX_GUIDANCE
from v2flow_engine.guidance import NO_NEGATIVE_PROMPT, SCHEDULES, UNGUIDED, Guidance

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

SCALE_KEY = "guidance_scale"
SCHEDULE_KEY = "guidance_schedule"
FIRST_KEY = "guidance_first_position"
COUNT_KEY = "guidance_num_positions"
KEYS = (SCALE_KEY, SCHEDULE_KEY, FIRST_KEY, COUNT_KEY)


class RowScales:
    """Guidance scales in the order of the logits' rows.

    `rows` is None until something writes it. A guided model without a writer would ignore the scales that
    requests ask for, so reading then fails.
    """

    def __init__(self) -> None:
        self.rows: torch.Tensor | None = None

    def open(self, max_num_rows: int, device: torch.device) -> torch.Tensor:
        """Allocate the (max_num_rows, 1) float32 buffer, all ones, and return it for writing."""
        self.rows = torch.ones((max_num_rows, 1), dtype=torch.float32, device=device)
        return self.rows

    def first(self, num_rows: int) -> torch.Tensor:
        """The scales (num_rows, 1) of this step's logits."""
        if self.rows is None:
            raise RuntimeError(
                "guidance scales do not reach this model: v2flow_vllm.register() was not called where the engine was "
                "configured"
            )
        if num_rows <= len(self.rows):
            return self.rows[:num_rows]
        # The V2 runner's warm-up asks for the log-probabilities of its prompts; nothing is guided then.
        if bool((self.rows == UNGUIDED.scale).all()):
            return torch.full_like(self.rows[:1], UNGUIDED.scale).expand(num_rows, 1)
        raise RuntimeError(
            f"{num_rows} rows of logits for {len(self.rows)} requests: prompt log-probabilities and "
            "speculative decoding cannot be guided"
        )


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


def guidance_of(params: SamplingParams | None) -> Guidance:
    """A request's guidance; vLLM's own warm-up requests have none and count as unguided."""
    extra_args: dict[str, Any] = (params.extra_args if params is not None else None) or {}
    if SCALE_KEY not in extra_args:
        return UNGUIDED
    scale, schedule = float(extra_args[SCALE_KEY]), extra_args.get(SCHEDULE_KEY, "constant")
    if schedule == "constant":
        return Guidance(scale)
    start = int(extra_args.get(FIRST_KEY, 0))
    return Guidance(scale, schedule, int(extra_args.get(COUNT_KEY, start + (params.max_tokens or 1))), start)


def check_params(params: SamplingParams) -> None:
    """Raise `ValueError` unless a request has usable guidance and asks for nothing that cannot be guided."""
    extra_args = params.extra_args or {}
    _check_names(extra_args)
    scale = extra_args.get(SCALE_KEY)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise ValueError(
            f"extra_args (vllm_xargs of a server) must hold a number as {SCALE_KEY!r}, got {scale!r}"
        )
    if not (math.isfinite(scale) and 0.0 <= scale <= MAX_GUIDANCE):
        raise ValueError(f"{SCALE_KEY} must lie in [0, {MAX_GUIDANCE:g}], got {scale!r}")
    _check_schedule(extra_args, params.max_tokens)
    if params.prompt_logprobs is not None:
        raise ValueError("prompt_logprobs is not available: the rows of a prompt are not guided")


def check_choice_of_tokens(params: SamplingParams) -> None:
    """Raise `ValueError` for another mask: with the model's own it may leave no token, and then any comes out."""
    for name in ("allowed_token_ids", "structured_outputs", "bad_words"):
        if getattr(params, name, None):
            raise ValueError(f"{name} is not available: the model chooses among its visual tokens")


def refuse_guidance(params: SamplingParams) -> None:
    """Raise `ValueError` if a request asks an unguided engine for guidance; a scale of 1 is none."""
    extra_args = params.extra_args or {}
    _check_names(extra_args)
    if extra_args.get(SCALE_KEY, 1) != 1:
        raise ValueError(
            f"this engine is unguided (engine_kwargs(guided=False)): {SCALE_KEY} must be 1 or left out, got "
            f"{extra_args[SCALE_KEY]!r}"
        )


def _check_names(extra_args: dict[str, Any]) -> None:
    """Other keys may be another plugin's; one that looks like ours is never ignored."""
    for name in extra_args:
        if "negative_prompt" in name:
            raise ValueError(f"extra_args[{name!r}]: {NO_NEGATIVE_PROMPT}")
        if name.startswith("guidance") and name not in KEYS:
            raise ValueError(f"extra_args: unknown {name!r}; of guidance there are {', '.join(KEYS)}")


def _check_schedule(extra_args: dict[str, Any], max_tokens: int | None) -> None:
    schedule = extra_args.get(SCHEDULE_KEY, "constant")
    if schedule not in SCHEDULES:
        raise ValueError(f"{SCHEDULE_KEY} must be {' or '.join(SCHEDULES)}, got {schedule!r}")
    for name, least in ((FIRST_KEY, 0), (COUNT_KEY, 1)):
        value = extra_args.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
    if schedule == "linear" and COUNT_KEY not in extra_args and max_tokens is None:
        raise ValueError(f"a linear schedule needs max_tokens or {COUNT_KEY}, the visual tokens of the image")
