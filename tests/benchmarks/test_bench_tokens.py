"""The token benchmark on a tiny model: real writers in processes of their own, the document, and what it counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

pytest.importorskip("vllm")
from benchmarks.bench_tokens import GUIDED, main
from benchmarks.harness import take_turns
from benchmarks.token_work import SHAPES, cost_of, random_model, random_prompts
from tests.tiny_model import build_tiny_model
from v2flow_engine.checkpoint import open_model
from v2flow_engine.errors import RequestError

OURS = "plugin, guided"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def test_it_prints_a_table_and_one_document(
    model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["--model", str(model), "--images", "2", "--repeats", "1", "--rows", OURS, GUIDED]) == 0
    *table, last = capfd.readouterr().out.splitlines()
    report = json.loads(last)
    assert [line for line in table if line.startswith(OURS) and "x)" in line]
    assert report["greedy_tokens_equal"] == {"guided": 1.0}
    for row in (OURS, GUIDED):
        assert report["tokens_per_second"][row]["2"] > 0
        assert report["share"][row]["2"]["matmul"] > 0 < report["share"][row]["2"]["memory"]


def test_costs_are_those_of_the_network(model: Path) -> None:
    """Operations of a pass over all tokens, as torch counts them; weights as they are stored."""
    folder = open_model(model)
    llm = AutoModelForCausalLM.from_pretrained(folder.llm_dir, attn_implementation="eager").requires_grad_(
        False
    )
    prompt, new = 5, 6
    cost = cost_of(folder, prompt, new, "float32")
    layers = sum(p.numel() for name, p in llm.model.layers.named_parameters() if p.ndim == 2)
    head = folder.llm_config["hidden_size"] * folder.vocabulary.codebook_size
    assert cost.weight_bytes == 4 * (layers + head)
    with FlopCounterMode(display=False) as counter:
        llm.model(torch.zeros(1, prompt + new - 1, dtype=torch.int64))
    read = prompt + new - 1
    attention = counter.get_total_flops() - 2 * layers * read  # of all pairs, where only the past is needed
    assert cost.flops == pytest.approx(
        2 * layers * read + attention * (read + 1) / (2 * read) + 2 * head * new, rel=0.01
    )
    llm_config = folder.llm_config
    per_token = (
        2 * llm_config["num_hidden_layers"] * llm_config["num_key_value_heads"] * llm_config["head_dim"]
    )
    assert cost.cache_bytes == 4 * per_token * sum(range(prompt, prompt + new))


@pytest.mark.parametrize(("shape", "billions"), [("llama-2-7b", 6.74), ("phi-3-mini", 3.82)])
def test_random_models_have_the_size_of_the_known_ones(tmp_path: Path, shape: str, billions: float) -> None:
    folder = random_model(shape, tmp_path)
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder.llm_dir))
    added = 2 * llm.config.hidden_size * (llm.config.vocab_size - SHAPES[shape]["vocab_size"])
    assert (sum(p.numel() for p in llm.parameters()) - added) / 1e9 == pytest.approx(billions, abs=0.01)
    prompts = random_prompts(folder)
    assert len(set(prompts)) == len(prompts) and {len(p) for p in prompts} == {24}


def test_runs_take_turns_and_the_first_turn_is_left_out() -> None:
    order: list[str] = []
    seconds = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_mistakes_are_told_in_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(model), "--images", "0"]) == 2
    assert "must be positive" in capsys.readouterr().err
    assert main(["--model", str(tmp_path / "none")]) == 2
    assert "no model" in capsys.readouterr().err
    with pytest.raises(RequestError, match="unknown shape 'gpt-2'"):
        random_model("gpt-2", tmp_path / "x")
