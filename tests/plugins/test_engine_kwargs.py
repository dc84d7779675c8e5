"""Registration and `engine_kwargs`, without an engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_llm import build_tiny_llm
from v2flow_engine.errors import ModelFolderError

vllm = pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kwargs") / "llm"
    build_tiny_llm(directory)
    return directory


def test_register_twice_keeps_the_architecture() -> None:
    import v2flow_vllm

    v2flow_vllm.register()
    v2flow_vllm.register()
    v2flow_vllm.register(load=True)
    assert set(v2flow_vllm.ARCHITECTURES) <= set(vllm.ModelRegistry.get_supported_archs())


def test_importing_the_plugin_imports_no_model() -> None:
    """What vLLM's plugin loader pays in every process: neither torch nor vLLM."""
    code = "import sys, v2flow_vllm; print(sorted({'torch', 'vllm', 'v2flow_engine'} & set(sys.modules)))"
    paths = [str(Path(__file__).parents[2] / "plugins"), str(Path(__file__).parents[2])]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_kwargs_are_vllm_arguments(folder: Path) -> None:
    """Every keyword is one that vLLM knows; overrides win."""
    import dataclasses

    import v2flow_vllm

    kwargs = v2flow_vllm.engine_kwargs(folder, max_num_seqs=8, seed=7)
    assert set(kwargs) <= {f.name for f in dataclasses.fields(vllm.EngineArgs)}
    assert kwargs["model"] == str(folder)
    assert (kwargs["max_num_seqs"], kwargs["seed"], kwargs["max_model_len"]) == (8, 7, 128)
    assert "hf_overrides" not in kwargs


def test_cache_holds_both_streams_of_every_request(folder: Path) -> None:
    import v2flow_vllm
    from v2flow_vllm.engine import kv_cache_bytes

    config = json.loads((folder / "config.json").read_text())
    streams, keys_and_values, layers, kv_heads, head_dim, float_bytes = 2, 2, 2, 2, 32, 4
    per_token = streams * keys_and_values * layers * kv_heads * head_dim * float_bytes
    assert kv_cache_bytes(config, 100, dtype="float32") == 100 * per_token
    assert kv_cache_bytes(config, 100, dtype="bfloat16", guided=False) == 100 * per_token // 4
    for max_num_seqs in (1, 64):
        kwargs = v2flow_vllm.engine_kwargs(folder, dtype="float32", max_num_seqs=max_num_seqs)
        assert kwargs["kv_cache_memory_bytes"] >= max_num_seqs * 128 * per_token
    assert v2flow_vllm.engine_kwargs(folder, kv_cache_gib=0.5)["kv_cache_memory_bytes"] == 2**29


def test_on_a_gpu_it_asks_for_no_more_of_it_than_it_needs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine waits for its share to be free; beside a decoder, nine tenths never are. The GPU's size is given."""
    from vllm.platforms import current_platform

    import v2flow_vllm
    from v2flow_vllm import engine

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    monkeypatch.setattr(engine, "_total_memory", lambda on_cpu: 80 * 2**30)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    kwargs = v2flow_vllm.engine_kwargs(folder, kv_cache_gib=2)
    assert kwargs["dtype"] == "bfloat16" and "enforce_eager" not in kwargs
    assert kwargs["gpu_memory_utilization"] == pytest.approx((4 * 2**30 + 2 * weights) / (80 * 2**30))
    assert v2flow_vllm.engine_kwargs(folder, kv_cache_gib=200)["gpu_memory_utilization"] == 0.92
    own = v2flow_vllm.engine_kwargs(folder, gpu_memory_utilization=0.5)
    assert own["gpu_memory_utilization"] == 0.5


@pytest.mark.parametrize("guided", [True, False])
def test_every_engine_of_the_architecture_has_the_processors(folder: Path, guided: bool) -> None:
    """Whoever makes the config, with our keywords or with a model's path alone; what the user names comes first."""
    import v2flow_vllm
    from v2flow_vllm.hook import FORCED_PROCESSOR, GUIDANCE_PROCESSOR, NO_GUIDANCE_PROCESSOR

    v2flow_vllm.register(load=True)
    ours = [GUIDANCE_PROCESSOR if guided else NO_GUIDANCE_PROCESSOR, FORCED_PROCESSOR]
    own = "vllm.v1.sample.logits_processor:MinPLogitsProcessor"
    kwargs = v2flow_vllm.engine_kwargs(folder, guided=guided)
    alone = {"model": str(folder), "hf_overrides": {"v2flow_guided": guided}}
    for given, expected in (
        (kwargs, ours),
        (alone, ours),
        (kwargs | {"logits_processors": [own, *ours]}, [own, *ours]),
    ):
        model_config = vllm.EngineArgs(**given).create_engine_config().model_config
        assert model_config.logits_processors == expected


def test_compilation_is_off_only_on_a_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU torch.compile and CUDA graphs are vLLM's to set."""
    from vllm.platforms import current_platform

    import v2flow_vllm

    assert v2flow_vllm.engine_kwargs(folder)["enforce_eager"] is True
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _self: False)
    kwargs = v2flow_vllm.engine_kwargs(folder)
    assert not {"enforce_eager", "compilation_config"} & set(kwargs)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    import v2flow_vllm

    with pytest.raises(ModelFolderError, match="no such file"):
        v2flow_vllm.engine_kwargs(tmp_path / "nowhere")
