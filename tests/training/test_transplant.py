"""`v2flow train vocabulary`: a tokenizer's codes move into another LLM's vocabulary space; decoder and codes stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.shaped_llm import SHAPES, build_plain_llm
from tests.training.test_training import command
from tests.training.tiny_run import LOOP, write_all
from v2flow_engine.checkpoint import open_model, read_visual_tokenizer
from v2flow_engine.cli import main
from v2flow_engine.training.llm_data import load_trained_tokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of coloured squares in runs/llm/squares, a plain LLM in plain/, the codes moved in runs/moved."""
    root = tmp_path_factory.mktemp("transplant")
    write_all(root)
    for stage in ("vae", "tokenizer", "llm"):
        assert main(command(root, stage, stage)) == 0
    build_plain_llm(root / "plain", **SHAPES["llama-2"])
    loop = LOOP | {"steps": 400, "batch_size": 8, "learning_rate": 0.01, "muon": False, "ema_decay": 0.9}
    loop |= {"log_every": 200, "sample_every": 200, "checkpoint_every": 400}
    (root / "vocabulary.yaml").write_text(json.dumps({"loop": loop}))
    assert main(vocabulary(root, "moved")) == 0
    return root


def vocabulary(root: Path, out: str, *extra: str) -> list[str]:
    given = ["--init", str(root / "runs/llm/squares"), "--llm", str(root / "plain")]
    return [*command(root, "vocabulary", out), *given, *extra]


def test_codes_and_conditions_are_kept_and_the_decoder_untouched(root: Path) -> None:
    lines = [json.loads(line) for line in (root / "runs/moved/metrics.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if "heldout_codes_kept" in line)
    assert last["heldout_codes_kept"] > 0.9 and last["heldout_condition_error"] < 0.1
    before = open_model(root / "runs/llm/squares").load_visual_tokenizer().state_dict()
    after = read_visual_tokenizer(root / "runs/moved/visual_tokenizer").state_dict()
    changed = {key for key in after if key not in before or not torch.equal(after[key], before[key])}
    assert all(key.startswith(("resampler.readout.", "quantizer.", "projector.")) for key in changed)
    config = json.loads((root / "runs/moved/visual_tokenizer/config.json").read_text())
    rows = load_file(str(root / "plain/model.safetensors"))["model.embed_tokens.weight"]
    assert [config["text_vocab_size"], config["code_dim"]] == list(rows.shape)


def test_they_are_moved_in_bfloat16_too(root: Path) -> None:
    """Beyond the steps in which the softmax is left out, where codes start anew."""
    short = ["--set", "loop.bf16=true", "--set", "loop.steps=4", "--set", "warm_share=0.5"]
    assert main(vocabulary(root, "in-bfloat16", *short)) == 0
    moved = load_trained_tokenizer(root / "runs/in-bfloat16/visual_tokenizer", torch.device("cpu"))
    assert moved.quantizer.codebook.dtype == torch.float32 and moved.quantizer.codebook.isfinite().all()


def test_logits_have_the_deviation_that_the_config_names(root: Path) -> None:
    tokenizer = load_trained_tokenizer(root / "runs/moved/visual_tokenizer", torch.device("cpu"))
    with torch.no_grad():
        logits = tokenizer.logits(tokenizer.queries(tokenizer.resampler(torch.randn(2, 4, 8, 8))))
    deviation = logits.std(dim=-1, correction=0)
    torch.testing.assert_close(deviation, torch.full_like(deviation, 1.5), rtol=1e-3, atol=0)


def test_vectors_do_not_depend_on_how_many_are_mixed_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_trained_tokenizer(root / "runs/moved/visual_tokenizer", torch.device("cpu"))
    latents = torch.randn(3, 4, 8, 8)
    whole = tokenizer.llm_space(latents).detach()
    monkeypatch.setattr("v2flow_engine.models.visual_tokenizer.MIXED_AT_ONCE", 7)
    with torch.no_grad():
        torch.testing.assert_close(tokenizer.llm_space(latents), whole, rtol=1e-5, atol=1e-6)


def test_an_llm_with_these_codes_is_trained(root: Path) -> None:
    moved = str(root / "runs/moved/visual_tokenizer")
    base = ["--base", str(root / "plain"), "--visual-tokenizer", moved, "--out", str(root / "llm")]
    assert main(["convert", "llm", *base, "--size", "64x64", "64x32"]) == 0
    given = ["--llm", str(root / "llm"), "--tokenizer", moved, "--set", "loop.steps=1"]
    assert main([*command(root, "llm", "drawing"), *given]) == 0
    folder = open_model(root / "runs/drawing/squares")
    tokenizer = folder.load_visual_tokenizer(with_vocabulary=True)
    codes = tokenizer.encode(folder.load_autoencoder().encode(torch.zeros(1, 3, 64, 64)))
    assert codes.shape == (1, 16)


def test_bad_input_is_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([*command(root, "vocabulary", "bad"), "--llm", str(root / "plain")], "needs --init MODEL"),
        ([*command(root, "vocabulary", "bad"), "--init", "v2flow-emoji"], "--llm DIR"),
        ([*command(root, "tokenizer", "bad"), "--llm", str(root / "plain")], "not with tokenizer"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error


def test_codes_of_the_tokenizer_it_was_moved_from_are_its_codes_too(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved, own = root / "runs/moved/visual_tokenizer", root / "runs/llm/squares/visual_tokenizer"
    data = ["--data", str(root / "data"), "--workers", "1", "--vae", str(root / "runs/vae/vae")]
    codes = str(root / "codes")
    assert main(["data", "codes", *data, "--tokenizer", str(own), "--out", codes]) == 0
    base = ["--base", str(root / "plain"), "--visual-tokenizer", str(moved), "--size", "64x64"]
    assert main(["convert", "llm", *base, "--out", str(root / "for-codes")]) == 0
    train = command(root, "llm", "on-codes", "--llm", str(root / "for-codes"), "--set", "loop.steps=1")
    first = train.index("--data") + 1
    train[first : first + 2] = [codes]
    assert main([*train, "--tokenizer", str(moved)]) == 0
    (moved / "moved_from.json").unlink()
    assert main([*train, "--tokenizer", str(moved)]) == 2
    assert "its codes are of the visual tokenizer" in capsys.readouterr().err
