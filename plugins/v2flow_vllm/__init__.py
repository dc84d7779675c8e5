"""The vLLM plugin: LLMs with visual tokens, guided inside the model.

    vLLM's plugin loader -> register() -> ModelRegistry knows the architectures, by name

`vllm serve MODEL/llm` works with no more than that; `engine_kwargs(llm_folder)` are the keywords of an engine that is
made for such a folder. Importing this package imports neither vLLM nor torch.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURES = {
    "V2FlowLlamaForCausalLM": "v2flow_vllm.llama:V2FlowLlamaForCausalLM",
    "V2FlowPhi3ForCausalLM": "v2flow_vllm.phi3:V2FlowPhi3ForCausalLM",
}
"""Architecture in llm/config.json -> where its class is."""


def register(*, load: bool = False) -> None:
    """Tell vLLM's model registry about the architectures; safe to call any number of times in any process.

    load: import the model classes now, instead of by name when needed. Right where the engine will run in
        this process: vLLM inspects classes known by name in a subprocess first, which costs seconds.

    With a vLLM of an unsupported release nothing is registered: an error is logged, because raising would keep
    vLLM from serving other models too, and with `load` `ReleaseError` is raised.
    """
    from v2flow_vllm.releases import check_release, release_problem

    if load:
        check_release()
    elif problem := release_problem():
        logging.getLogger(__name__).error("%s; its models are not registered", problem)
        return
    from vllm import ModelRegistry

    from v2flow_vllm.cpu_norms import provide
    from v2flow_vllm.hook import install

    provide()
    install(ARCHITECTURES)
    known = ModelRegistry.get_supported_archs()
    for architecture, location in ARCHITECTURES.items():
        if load:
            module, name = location.split(":")
            ModelRegistry.register_model(architecture, getattr(import_module(module), name))
        elif architecture not in known:
            ModelRegistry.register_model(architecture, location)


def engine_kwargs(llm_folder: str | Path, *, guided: bool = True, **overrides: Any) -> dict[str, Any]:
    """The keywords of a vLLM engine made for an `llm/` folder; see `v2flow_vllm.engine.engine_kwargs`."""
    from v2flow_vllm.engine import engine_kwargs as build

    return build(llm_folder, guided=guided, **overrides)


__all__ = ["ARCHITECTURES", "engine_kwargs", "register"]
