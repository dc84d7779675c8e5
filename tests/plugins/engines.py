"""A plain vLLM engine from `engine_kwargs` alone: started, asked, stepped to the end, watched, stopped."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

vllm = pytest.importorskip("vllm")

NUM_TOKENS = 64


def start_engine(folder: Path, **kwargs: object) -> vllm.LLMEngine:
    import v2flow_vllm

    v2flow_vllm.register(load=True)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)  # it would win over the engine's own arguments
        patch.setattr(torch, "set_num_threads", torch.set_num_threads)  # vLLM replaces it
        return vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**v2flow_vllm.engine_kwargs(folder, **kwargs)))


def stop_engine(engine: vllm.LLMEngine) -> None:
    engine.engine_core.shutdown()
    gc.collect()


def greedy_params(
    scale: float,
    num_tokens: int = NUM_TOKENS,
    forced: list[int | None] | None = None,
    schedule: str | None = None,
) -> vllm.SamplingParams:
    extra_args: dict[str, object] = {"guidance_scale": scale}
    if schedule is not None:
        extra_args["guidance_schedule"] = schedule
    if forced is not None:
        extra_args["forced_visual_token_ids"] = forced
    return vllm.SamplingParams(
        temperature=0.0,
        max_tokens=num_tokens,
        ignore_eos=True,
        detokenize=False,
        extra_args=extra_args,
    )


def drain(engine: vllm.LLMEngine) -> dict[str, list[int]]:
    finished = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                finished[output.request_id] = list(output.outputs[0].token_ids)
    return finished


def runner_of(engine: vllm.LLMEngine) -> Any:
    """The model runner, which is in this process."""
    return engine.model_executor.driver_worker.worker.model_runner


def scheduler_of(engine: vllm.LLMEngine) -> Any:
    """The scheduler, which is in this process."""
    return engine.engine_core.engine_core.scheduler


def watch_rows(engine: vllm.LLMEngine, patch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the number of token rows of each step's forward pass."""
    model, rows = runner_of(engine).model, []
    forward = model.forward

    def watched(input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        rows.append(len(input_ids))
        return forward(input_ids, *args, **kwargs)

    patch.setattr(model, "forward", watched)
    return rows
