"""What an engine of these models needs besides the model, however it was started: vLLM's config -> completed.

vLLM calls this by architecture while it checks a config, so that `vllm serve MODEL/llm` needs no option of ours, and a
guided model is never without what reads its scales.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

from v2flow_vllm import cpu_norms, whole_prompts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm.config import VllmConfig

GUIDANCE_PROCESSOR = "v2flow_vllm.logits_processor:GuidanceScaleProcessor"
NO_GUIDANCE_PROCESSOR = "v2flow_vllm.logits_processor:NoGuidanceProcessor"
FORCED_PROCESSOR = "v2flow_vllm.forced:ForcedTokensProcessor"


class VisualTokensConfig(VerifyAndUpdateConfig):
    """Adds the plugin's logits processors to those that the user has named."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Change `vllm_config` in place."""
        cpu_norms.prefer(vllm_config)
        whole_prompts.prefer(vllm_config)
        if vllm_config.use_v2_model_runner and not _v2_takes_processors():
            return  # guidance does without; forced tokens between free ones are refused then
        model = vllm_config.model_config
        guided = getattr(model.hf_config, "v2flow_guided", True)
        named = list(model.logits_processors or ())
        needed = (GUIDANCE_PROCESSOR if guided else NO_GUIDANCE_PROCESSOR, FORCED_PROCESSOR)
        model.logits_processors = named + [each for each in needed if each not in named]


def install(architectures: Iterable[str]) -> None:
    """Have vLLM call this for these architectures; safe to call any number of times."""
    for architecture in architectures:
        MODELS_CONFIG_MAP[architecture] = VisualTokensConfig


def _v2_takes_processors() -> bool:
    return importlib.util.find_spec("vllm.v1.worker.gpu.sample.logits_processor") is not None
