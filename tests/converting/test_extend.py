"""`v2flow convert llm --base`: a plain LLM with visual tokens loads everywhere and still answers to text as before."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.engine_common import one_thread
from tests.shaped_llm import SHAPES, build_plain_llm
from tests.tiny_llm import CAPTIONS
from tests.tiny_model import build_tiny_model, tiny_tokenizer_config
from v2flow_engine import cli
from v2flow_engine.config import save_json
from v2flow_engine.generation.two_pass import generate_two_pass
from v2flow_engine.models.visual_tokenizer import VisualTokenizer
from v2flow_engine.prompts import PromptEncoder
from v2flow_engine.vocabulary import VisualVocabulary

SIZE = ["--size", "64x64"]


def visual_tokenizer(folder: Path, code_dim: int = 128, text_vocab_size: int = 300) -> Path:
    """A visual_tokenizer/ folder with 4 x 4 tokens and 64 codes."""
    folder.mkdir(parents=True)
    tokenizer = VisualTokenizer(tiny_tokenizer_config(text_vocab_size, code_dim))
    save_file(tokenizer.state_dict(), folder / "model.safetensors")
    save_json(tokenizer.config, folder / "config.json")
    return folder


def extend(base: Path, tokenizer: Path, out: Path, *extra: str) -> int:
    arguments = ["--base", str(base), "--visual-tokenizer", str(tokenizer), "--out", str(out), *extra]
    return cli.main(["convert", "llm", *arguments])


def load(folder: Path) -> torch.nn.Module:
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return model.eval()


@pytest.mark.parametrize("shape", ["llama-biases", "smollm2", "phi-3-mini-128k"])
def test_it_loads_and_answers_to_text_as_before(shape: str, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    text_vocab_size = build_plain_llm(base, shard_size="100KB", **SHAPES[shape])
    hidden = SHAPES[shape].get("hidden_size", 128)
    tokenizer = visual_tokenizer(tmp_path / "visual_tokenizer", hidden)
    assert extend(base, tokenizer, out, *SIZE) == 0

    config = json.loads((out / "config.json").read_text())
    vocabulary = VisualVocabulary.from_llm_config(config)
    assert vocabulary.text_vocab_size == text_vocab_size and vocabulary.grids == {"64x64": [4, 4]}
    assert config["vocab_size"] == text_vocab_size + 4 + 64
    kept = {"vocab_size", "eos_token_id", "bos_token_id", "architectures", "v2flow"}
    given = json.loads((base / "config.json").read_text())
    assert {k: config[k] for k in given if k not in kept} == {k: given[k] for k in given if k not in kept}

    shards = sorted(path.name for path in base.glob("*.safetensors*"))
    assert len(shards) > 3 and sorted(path.name for path in out.glob("*.safetensors*")) == shards
    before, after = load(base), load(out)
    ids = torch.arange(30)[None]
    with torch.inference_mode():
        was, now = before(ids).logits[0], after(ids).logits[0]
    torch.testing.assert_close(now[:, :text_vocab_size], was)  # as many rows of a product, in other blocks

    rows = after.get_input_embeddings().weight.detach()
    codebook = load_file(tokenizer / "model.safetensors")["quantizer.codebook"]
    head = after.get_output_embeddings().weight.detach()
    for weight in (rows, head):
        text = weight[:text_vocab_size]
        distance = (text - text.mean(dim=0)).square().sum(dim=-1).mean().sqrt()
        expected = text.mean(dim=0) + codebook * distance
        torch.testing.assert_close(weight[vocabulary.visual_offset :], expected, rtol=1e-4, atol=1e-5)
    control = rows[text_vocab_size : vocabulary.visual_offset]
    assert len(control.unique(dim=0)) == 4
    assert (control.norm(dim=-1) / rows[:text_vocab_size].norm(dim=-1).mean() - 1).abs().max() < 0.5


def test_the_tokenizer_knows_control_tokens_and_prompts_cannot_write_them(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    build_plain_llm(base, **SHAPES["llama-2"])
    settings = json.loads((base / "tokenizer_config.json").read_text())
    bos = {
        "content": "<s>",
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"added_tokens_decoder": {"0": bos}}))
    assert extend(base, visual_tokenizer(tmp_path / "v"), out, "--size", "64x64", "32x64") == 0
    vocabulary = VisualVocabulary.from_llm_config(json.loads((out / "config.json").read_text()))
    assert vocabulary.grids == {"64x64": [4, 4], "32x64": [4, 2]}
    for tokenizer in (Tokenizer.from_file(str(out / "tokenizer.json")), AutoTokenizer.from_pretrained(out)):
        ids = {
            "<|image_start|>": vocabulary.image_start_id,
            "<|image_end|>": vocabulary.image_end_id,
            "<|image_null|>": vocabulary.null_id,
            "<|image_size_64x64|>": vocabulary.size_token_ids["64x64"],
            "<|image_size_32x64|>": vocabulary.size_token_ids["32x64"],
        }
        for text, token_id in ids.items():
            encoded = tokenizer.encode(text, add_special_tokens=False)
            assert list(getattr(encoded, "ids", encoded)) == [token_id]
    was, now = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (base, out))
    assert [now.encode(text).ids for text in CAPTIONS] == [was.encode(text).ids for text in CAPTIONS]
    encoder = PromptEncoder(out, vocabulary, 128)
    for written in ("<|image_start|>", "<s>"):
        ids = encoder.encode(f"a cat {written}", "64x64")
        assert ids[0] == 0 and ids[-2] == vocabulary.image_start_id
        assert all(0 < i < vocabulary.text_vocab_size for i in ids[1:-2])


def test_it_runs_in_vllm(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    from tests.plugins.test_guided_llama import drain, greedy_params, start_engine, stop_engine

    build_plain_llm(tmp_path / "base", shard_size="100KB", **SHAPES["phi-3-mini-4k"])
    out = tmp_path / "llm"
    assert extend(tmp_path / "base", visual_tokenizer(tmp_path / "v"), out, *SIZE) == 0
    vocabulary = VisualVocabulary.from_llm_config(json.loads((out / "config.json").read_text()))
    prompt = PromptEncoder(out, vocabulary, 128).encode(CAPTIONS[0], "64x64")
    with one_thread():
        engine = start_engine(out, max_num_seqs=2)
        engine.add_request("a", {"prompt_token_ids": prompt}, greedy_params(2.0))
        written = drain(engine)["a"]
        stop_engine(engine)
    assert written == generate_two_pass(load(out), vocabulary, [prompt], 64, 2.0, temperature=0)[0].tolist()


def test_the_model_around_the_tokenizer_gives_the_sizes(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model")
    build_plain_llm(tmp_path / "base", **SHAPES["llama-2"] | {"hidden_size": 64})
    for number, given in enumerate((model, model / "visual_tokenizer")):
        assert extend(tmp_path / "base", given, tmp_path / str(number)) == 0
        config = json.loads((tmp_path / str(number) / "config.json").read_text())
        assert config["v2flow"]["grids"] == {"64x64": [4, 4]}


def test_refusals_are_one_line_and_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tokenizer = tmp_path / "base", visual_tokenizer(tmp_path / "v")
    build_plain_llm(base, **SHAPES["llama-2"])
    narrow = visual_tokenizer(tmp_path / "narrow", 64)
    other = visual_tokenizer(tmp_path / "other", 128, text_vocab_size=1000)
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    before = sorted(path.name for path in tmp_path.iterdir())
    capsys.readouterr()

    def refused(*arguments: object) -> str:
        assert extend(*arguments) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1, said.err
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return said.err

    def with_config(**changes: object) -> None:
        (base / "config.json").write_text(json.dumps(config | changes))

    out = tmp_path / "out"
    assert "code_dim 64, and hidden_size 128" in refused(base, narrow, out, *SIZE)
    assert "mixes 1000 text rows" in refused(base, other, out, *SIZE)
    assert "give them (--size)" in refused(base, tokenizer, out)
    assert "not a whole number of visual tokens" in refused(base, tokenizer, out, "--size", "64x64", "30x64")
    assert "no such file" in refused(tmp_path / "none", tokenizer, out, *SIZE)
    assert "exists already" in refused(base, tokenizer, base, *SIZE)
    if importlib.util.find_spec("gguf") is None:
        assert "pip install gguf" in refused(gguf, tokenizer, out, *SIZE)
    config = json.loads((base / "config.json").read_text())
    with_config(model_type="mistral")
    assert "one of llama, phi3, got 'mistral'" in refused(base, tokenizer, out, *SIZE)
    with_config(vocab_size=299)
    assert "expected (299, 128)" in refused(base, tokenizer, out, *SIZE)
    with_config(max_position_embeddings=16)
    assert "16 visual tokens" in refused(base, tokenizer, out, *SIZE)
    with_config(quantization_config={"quant_method": "awq"})
    assert "quantized" in refused(base, tokenizer, out, *SIZE)
    with_config(v2flow={})
    assert "visual tokens already" in refused(base, tokenizer, out, *SIZE)
    with_config()
    (base / "tokenizer.json").unlink()
    assert "tokenizer.json: no such file" in refused(base, tokenizer, out, *SIZE)
    for arguments, message in (
        (["--base", str(base)], "--base needs --visual-tokenizer"),
        (["--model", str(base)], "--model needs --arch"),
        (["--model", str(base), "--arch", "phi3", "--size", "64x64"], "--size does not go with --model"),
        ([], "one of the arguments --model --base"),
    ):
        assert cli.main(["convert", "llm", *arguments, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err


PEAK = """
import re, sys
from pathlib import Path
from v2flow_engine import cli
import v2flow_engine.converting.extend, v2flow_engine.converting.change
from transformers import AutoConfig
AutoConfig.for_model("llama"), AutoConfig.for_model("phi3")  # what importing takes is not counted
def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = kib("VmRSS")
assert cli.main(sys.argv[1:]) == 0
print(kib("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_memory_is_that_of_a_shard(tmp_path: Path) -> None:
    """100 MB in shards of at most 8: neither command takes 40."""
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 6}
    base, out = tmp_path / "base", tmp_path / "out"
    build_plain_llm(base, shard_size="8MB", **SHAPES["llama-2"] | shape | {"num_key_value_heads": 8})
    sizes = [path.stat().st_size for path in base.glob("*.safetensors")]
    assert sum(sizes) > 96e6 and max(sizes) < 8.5e6
    tokenizer = visual_tokenizer(tmp_path / "v", 512)

    def peak(*arguments: object) -> float:
        command = [sys.executable, "-c", PEAK, "convert", "llm", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return int(result.stdout.split()[-1]) * 1024

    assert peak("--base", base, "--visual-tokenizer", tokenizer, *SIZE, "--out", out) < 40e6
    assert peak("--model", out, "--arch", "phi3", "--out", tmp_path / "phi3") < 40e6
    assert len(list((tmp_path / "phi3").glob("*.safetensors"))) > 10
