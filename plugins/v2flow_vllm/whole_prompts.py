"""Prompts in one piece on a CPU, where vLLM cannot take back the number that it drew after a piece of one.

After each piece of a prompt vLLM draws a token that it throws away, and sets a seeded request's generator back by an
offset. CPU generators have none: the engine would die of the first seeded prompt that does not fit what is left of a
step, which takes no more than 64 prompts of 33 tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def prefer(vllm_config: VllmConfig) -> None:
    """Let a prompt wait for a step that has room for all of it. Changes `vllm_config` in place.

    Does nothing where a step may be too small for the longest sequence: there a prompt would wait forever.
    """
    from vllm.platforms import current_platform

    scheduler = vllm_config.scheduler_config
    if (
        current_platform.is_cpu()
        and scheduler.max_num_batched_tokens >= vllm_config.model_config.max_model_len
    ):
        scheduler.enable_chunked_prefill = False
