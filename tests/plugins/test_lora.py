"""LoRA adapters: an adapter writes the tokens that the merged weights write, beside requests without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine_common import one_thread
from tests.plugins.engines import drain, greedy_params, runner_of, start_engine, stop_engine
from tests.two_pass import TwoPass

vllm = pytest.importorskip("vllm")
from vllm.lora.request import LoRARequest  # noqa: E402

RANK, ALPHA, NUM_TOKENS = 4, 8, 40
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SCALES = (3.0, 3.0, 6.0, 1.0)


def build_adapter(llm: Path, folder: Path, *, targets: tuple[str, ...], seed: int) -> Path:
    """A random adapter in PEFT's format, and `merged/`, the LLM with it in its weights. Returns the adapter."""
    weights, generator = load_file(llm / "model.safetensors"), torch.Generator().manual_seed(seed)
    adapter = {}
    for name in [each for each in weights if each.split(".")[-2] in targets]:
        rows, columns = weights[name].shape
        a, b = (torch.randn(s, generator=generator) for s in ((RANK, columns), (rows, RANK)))
        a, b = a * columns**-0.5, b * 0.4 * RANK**-0.5
        weights[name] = weights[name] + ALPHA / RANK * b @ a
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        adapter |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    (folder / "merged").mkdir(parents=True)
    save_file(weights, folder / "merged" / "model.safetensors")
    (folder / "merged" / "config.json").write_text((llm / "config.json").read_text())
    save_file(adapter, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(targets)}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"bias": "none"}))
    return folder


@pytest.fixture(scope="module")
def adapters(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> list[SimpleNamespace]:
    """One of the layers alone, one of the head as well."""
    made = []
    for number, targets in enumerate((LINEAR, (*LINEAR, "lm_head")), start=1):
        path = tmp_path_factory.mktemp("lora") / str(number)
        folder = build_adapter(tiny.folder, path, targets=targets, seed=number)
        request = LoRARequest(f"adapter{number}", number, str(folder))
        made.append(SimpleNamespace(request=request, loop=TwoPass(folder / "merged", tiny.vocabulary)))
    return made


@pytest.fixture(scope="module", params=[True, False], ids=["guided", "unguided"])
def engine(tiny: SimpleNamespace, request: pytest.FixtureRequest) -> Iterator[vllm.LLMEngine]:
    """Prompts in pieces and with decode steps in one batch, so that rows of several adapters stand in any order.

    Three slots for two adapters: vLLM's kernels for CPUs give a request without an adapter what is in the last slot.
    """
    settings = {"enable_lora": True, "max_loras": 3, "max_lora_rank": 8, "max_num_batched_tokens": 24}
    with one_thread():
        engine = start_engine(tiny.folder, guided=request.param, max_num_seqs=4, **settings)
        yield engine
        stop_engine(engine)


def test_an_adapter_writes_what_merged_weights_write(
    tiny: SimpleNamespace, adapters: list[SimpleNamespace], engine: vllm.LLMEngine
) -> None:
    guided = runner_of(engine).model.guided
    asked = []
    for index in range(6):
        adapter = [None, *adapters][index % 3]
        scale = SCALES[index % 4] if guided else 1.0
        asked.append((f"{index}", tiny.prompts[index // 2], scale, adapter))
    for name, prompt, scale, adapter in asked:
        request = adapter.request if adapter else None
        engine.add_request(
            name, {"prompt_token_ids": prompt}, greedy_params(scale, NUM_TOKENS), lora_request=request
        )
    written = drain(engine)
    for name, prompt, scale, adapter in asked:
        loop = adapter.loop if adapter else tiny.loop
        assert written[name] == loop.greedy(prompt, NUM_TOKENS, scale if guided else None), name
    one, other = (adapters[i].loop.greedy(tiny.prompts[0], NUM_TOKENS, 3.0) for i in (0, 1))
    assert one != other != tiny.loop.greedy(tiny.prompts[0], NUM_TOKENS, 3.0) != one
