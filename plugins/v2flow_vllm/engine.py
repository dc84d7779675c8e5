"""llm/ folder -> the keyword arguments of a vLLM engine that serves it. Starts nothing, loads no weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from v2flow_engine.config import load_json
from v2flow_engine.llm_config import longest_sequence
from v2flow_vllm.releases import check_release

MIN_BATCHED_TOKENS = 2048
LARGEST_BLOCK = 128  # tokens in a block of the KV cache, on the platform with the largest
MOST_OF_MEMORY = 0.25
# With a cache of a given size an engine takes no more than it needs, but where less of the GPU is free than its share,
# which is else 0.92, it does not start: beside a decoder, or another engine.
MOST_OF_A_GPU = 0.92
WORKING_MEMORY = 2**31  # activations, CUDA graphs, libraries
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def engine_kwargs(
    llm_folder: str | Path,
    *,
    guided: bool = True,
    dtype: str = "auto",
    max_num_seqs: int = 64,
    kv_cache_gib: float | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Every keyword that `vllm.LLM`, `EngineArgs` or `AsyncEngineArgs` needs for an `llm/` folder.

    Args:
        llm_folder: MODEL/llm.
        guided: False serves the conditional stream alone, with half the KV cache and half the work.
        dtype: "auto" is float32 on a CPU, for exactness, and bfloat16 elsewhere.
        max_num_seqs: requests in flight at once.
        kv_cache_gib: size of the KV cache; None takes what `max_num_seqs` requests of full length need, or,
            where that is over a quarter of the memory, a quarter on a CPU and vLLM's own choice elsewhere.
        overrides: further vLLM arguments, which win.

    Raises `ModelFolderError` if the folder has no usable config.json, `ReleaseError` for a vLLM of an unsupported
    release.
    """
    check_release()
    from vllm.platforms import current_platform

    folder = Path(llm_folder)
    config = load_json(folder / "config.json")
    on_cpu = current_platform.is_cpu()
    if dtype == "auto":
        dtype = "float32" if on_cpu else "bfloat16"
    max_model_len = int(overrides.get("max_model_len") or longest_sequence(config, f"{folder}/config.json"))
    if kv_cache_gib is None:
        tokens = max_num_seqs * (-(-max_model_len // LARGEST_BLOCK) + 1) * LARGEST_BLOCK
        cache_bytes = kv_cache_bytes(config, tokens, dtype=dtype, guided=guided)
    else:
        cache_bytes = int(kv_cache_gib * 2**30)
    kwargs: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,  # requests carry token ids
        "generation_config": "vllm",  # sampling defaults come with the request, not from the folder
        "dtype": dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max(MIN_BATCHED_TOKENS, max_model_len, max_num_seqs),
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if on_cpu:
        kwargs["enforce_eager"] = True
    memory = _total_memory(on_cpu)
    if kv_cache_gib is not None or cache_bytes <= memory * MOST_OF_MEMORY:
        kwargs["kv_cache_memory_bytes"] = cache_bytes
        if not on_cpu:
            needed = cache_bytes + 2 * weight_bytes(folder) + WORKING_MEMORY
            kwargs["gpu_memory_utilization"] = min(MOST_OF_A_GPU, needed / memory)
    elif on_cpu:
        kwargs["kv_cache_memory_bytes"] = int(memory * MOST_OF_MEMORY)
    if not guided:
        kwargs["hf_overrides"] = {"v2flow_guided": False}
    return kwargs | overrides


def weight_bytes(folder: Path) -> int:
    """What the files of weights take on the disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def kv_cache_bytes(config: dict[str, Any], num_tokens: int, *, dtype: str, guided: bool = True) -> int:
    """Bytes that the keys and values of `num_tokens` take: in every layer, twice when guided."""
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    per_token = 2 * int(config["num_hidden_layers"]) * kv_heads * head_dim * DTYPE_BYTES[dtype]
    return num_tokens * per_token * (2 if guided else 1)


def _total_memory(on_cpu: bool) -> int:
    """Bytes of memory of the device that the engine will run on."""
    if on_cpu:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    from vllm.platforms import current_platform

    return int(current_platform.get_device_total_memory())
