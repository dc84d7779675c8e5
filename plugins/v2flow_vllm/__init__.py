"""The vLLM plugin: LLMs with visual tokens, guided inside the model.

    vLLM's plugin loader -> register() -> ModelRegistry knows V2FlowLlamaForCausalLM (imported only when it is loaded)

`engine_kwargs(llm_folder)` is every keyword that a vLLM engine needs for such a folder. Importing this package imports
neither vLLM nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURES = {"V2FlowLlamaForCausalLM": "v2flow_vllm.llama:V2FlowLlamaForCausalLM"}
"""Architecture in llm/config.json -> where its class is."""


def register() -> None:
    """Tell vLLM's model registry about the architectures; safe to call any number of times in any process."""
    from vllm import ModelRegistry

    known = ModelRegistry.get_supported_archs()
    for architecture, location in ARCHITECTURES.items():
        if architecture not in known:
            ModelRegistry.register_model(architecture, location)


def engine_kwargs(llm_folder: str | Path, *, guided: bool = True, **overrides: Any) -> dict[str, Any]:
    """Every keyword that `vllm.LLM` or `AsyncEngineArgs` needs for an `llm/` folder; see `v2flow_vllm.engine`."""
    from v2flow_vllm.engine import engine_kwargs as build

    return build(llm_folder, guided=guided, **overrides)


__all__ = ["ARCHITECTURES", "engine_kwargs", "register"]
