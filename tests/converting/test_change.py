"""`v2flow convert llm --arch`: an LLM as the other architecture computes the same, here and in vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3ForCausalLM

from tests.engine_common import one_thread
from tests.shaped_llm import build_shaped_llm
from tests.tiny_llm import CAPTIONS
from tests.tiny_model import build_tiny_model
from v2flow_engine import cli
from v2flow_engine.checkpoint import ASSETS, open_model
from v2flow_engine.generation.two_pass import generate_two_pass
from v2flow_engine.prompts import PromptEncoder

EMOJI = ASSETS / "v2flow-emoji"


def convert(model: Path | str, arch: str, out: Path) -> int:
    return cli.main(["convert", "llm", "--model", str(model), "--arch", arch, "--out", str(out)])


def logits(folder: Path) -> torch.Tensor:
    """Of 40 ids, all loaded weights used and none made up."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.inference_mode():
        return model(torch.arange(40)[None]).logits[0]


def shard(folder: Path, size: str) -> None:
    """Save a folder's weights again, in files of at most `size`."""
    config = (folder / "config.json").read_text()
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).save_pretrained(
        folder, max_shard_size=size
    )
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(config)


def test_the_embedded_model_gives_the_same_tokens_in_both(tmp_path: Path) -> None:
    assert convert("v2flow-emoji", "phi3", tmp_path / "phi3") == 0
    llama, phi3 = open_model("v2flow-emoji"), open_model(tmp_path / "phi3")
    assert phi3.llm_config["architectures"] == ["V2FlowPhi3ForCausalLM"]
    assert phi3.vocabulary == llama.vocabulary
    prompts = [llama.prompt_encoder.encode(text, "128x128") for text in ("a red apple", "two cartoon cats")]
    models = [AutoModelForCausalLM.from_pretrained(f.llm_dir, dtype=torch.float32) for f in (llama, phi3)]
    assert isinstance(models[1], Phi3ForCausalLM)
    for scale in (1.0, 3.0):
        first, second = (
            generate_two_pass(m, llama.vocabulary, prompts, 64, scale, temperature=0) for m in models
        )
        assert torch.equal(first, second)
    assert convert(tmp_path / "phi3", "llama", tmp_path / "llama") == 0
    weights = "llm/model.safetensors"
    assert (tmp_path / "llama" / weights).read_bytes() == (EMOJI / weights).read_bytes()
    back = json.loads((tmp_path / "llama" / "llm" / "config.json").read_text())
    assert back == json.loads((EMOJI / "llm" / "config.json").read_text())
    for part in (
        "visual_tokenizer/model.safetensors",
        "vae/config.json",
        "llm/tokenizer.json",
        "config.json",
    ):
        assert (tmp_path / "llama" / part).read_bytes() == (EMOJI / part).read_bytes()


def test_what_is_converted_runs_in_vllm(tmp_path: Path) -> None:
    vllm = pytest.importorskip("vllm")
    from tests.plugins.test_guided_llama import drain, greedy_params, start_engine, stop_engine

    vocabulary = build_shaped_llm(tmp_path / "llama", "llama-2")
    shard(tmp_path / "llama", "100KB")
    assert convert(tmp_path / "llama", "phi3", tmp_path / "phi3") == 0
    prompt = PromptEncoder(tmp_path / "llama", vocabulary, 128).encode(CAPTIONS[0], "128x128")
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.float32)
    with one_thread():
        engine: vllm.LLMEngine = start_engine(tmp_path / "phi3", max_num_seqs=2)
        engine.add_request("a", {"prompt_token_ids": prompt}, greedy_params(3.0))
        written = drain(engine)["a"]
        stop_engine(engine)
    assert written == generate_two_pass(llama, vocabulary, [prompt], 64, 3.0, temperature=0)[0].tolist()


def test_shards_stay_and_weights_find_each_other_across_them(tmp_path: Path) -> None:
    build_shaped_llm(tmp_path / "llama", "smollm2")
    shard(tmp_path / "llama", "40KB")
    index = json.loads((tmp_path / "llama" / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 8
    layer = "model.layers.0.self_attn."
    assert len({index[f"{layer}{part}_proj.weight"] for part in "qkv"}) > 1
    assert convert(tmp_path / "llama", "phi3", tmp_path / "phi3") == 0
    fused = json.loads((tmp_path / "phi3" / "model.safetensors.index.json").read_text())
    assert fused["weight_map"][f"{layer}qkv_proj.weight"] == index[f"{layer}q_proj.weight"]
    assert set(fused["weight_map"].values()) <= set(index.values())
    sizes = [path.stat().st_size for path in (tmp_path / "phi3").glob("*.safetensors")]
    assert fused["metadata"]["total_size"] < sum(sizes) < fused["metadata"]["total_size"] + 2000 * len(sizes)
    torch.testing.assert_close(logits(tmp_path / "phi3"), logits(tmp_path / "llama"))


def test_longrope_goes_both_ways(tmp_path: Path) -> None:
    """40 positions, and again with 20 as the length before the extension, so that long factors are used."""
    build_shaped_llm(tmp_path / "phi3", "phi-3-mini-128k")
    path = tmp_path / "phi3" / "config.json"
    given = json.loads(path.read_text())
    seen = []
    for original in (128, 20):
        rope = given["rope_parameters"] | {"original_max_position_embeddings": original}
        path.write_text(
            json.dumps(given | {"rope_parameters": rope, "original_max_position_embeddings": original})
        )
        assert convert(tmp_path / "phi3", "llama", tmp_path / f"llama{original}") == 0
        assert convert(tmp_path / f"llama{original}", "phi3", tmp_path / f"again{original}") == 0
        seen.append(logits(tmp_path / "phi3"))
        torch.testing.assert_close(logits(tmp_path / f"llama{original}"), seen[-1], rtol=1e-4, atol=1e-4)
        assert torch.equal(logits(tmp_path / f"again{original}"), seen[-1])
    assert (seen[0] - seen[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("shape", "arch", "message"),
    [
        ("llama-biases", "phi3", "has no attention_bias, no mlp_bias"),
        ("llama-3", "phi3", "no rotary embedding 'llama3'"),
        ("phi-3-mini-4k", "llama", "no sliding window (sliding_window 40)"),
        ("phi-4-mini", "llama", "no partial rotary embedding (partial_rotary_factor 0.75)"),
        ("llama-2", "llama", "is llama already"),
    ],
)
def test_what_the_other_cannot_compute_is_refused(
    shape: str, arch: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_shaped_llm(tmp_path / "llm", shape)
    capsys.readouterr()  # transformers shows its progress
    assert convert(tmp_path / "llm", arch, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["llm"]


def test_an_error_half_way_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A weight is missing in a later file, when others have been written."""
    build_shaped_llm(tmp_path / "llm", "llama-2")
    shard(tmp_path / "llm", "100KB")
    index = json.loads((tmp_path / "llm" / "model.safetensors.index.json").read_text())["weight_map"]
    from safetensors.torch import load_file, save_file

    gone = "model.layers.1.self_attn.v_proj.weight"
    weights = load_file(tmp_path / "llm" / index[gone])
    save_file({k: v for k, v in weights.items() if k != gone}, tmp_path / "llm" / index[gone])
    assert convert(tmp_path / "llm", "phi3", tmp_path / "out") == 2
    assert f"no weight {gone}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["llm"]


def test_a_model_folder_stays_one_and_what_is_there_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_tiny_model(tmp_path / "model")
    (tmp_path / "out").mkdir()
    assert convert(model, "phi3", tmp_path / "out") == 0  # an empty folder will do
    assert open_model(tmp_path / "out").llm_config["model_type"] == "phi3"
    assert convert(model, "phi3", tmp_path / "out") == 2
    assert "exists already" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out" / "vae")
    assert convert(tmp_path / "out", "llama", tmp_path / "again") == 2
    assert "vae missing" in capsys.readouterr().err and not (tmp_path / "again").exists()
