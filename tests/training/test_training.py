"""The three trainings end to end on tiny networks, through the command line, down to a model folder that opens."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, Phi3ForCausalLM

from tests.training.tiny_run import write_all
from v2flow_engine.checkpoint import open_model
from v2flow_engine.cli import main
from v2flow_engine.config import parse_size
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.request import DecodeRequest


def command(root: Path, stage: str, out: str, *extra: str) -> list[str]:
    runs = root / "runs"
    arguments = [
        "train",
        stage,
        "--data",
        str(root / "data"),
        str(root / "wide"),
        "--config",
        str(root / f"{stage}.yaml"),
        "--out",
        str(runs / out),
        "--device",
        "cpu",
        "--workers",
        "1",
    ]
    if stage != "vae":
        arguments += ["--vae", str(runs / "vae" / "vae")]
    if stage == "llm":
        arguments += ["--tokenizer", str(runs / "tokenizer" / "visual_tokenizer"), "--name", "squares"]
    return [*arguments, *extra]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all three stages have been trained."""
    root = tmp_path_factory.mktemp("training")
    write_all(root)
    for stage in ("vae", "tokenizer", "llm"):
        assert main(command(root, stage, stage)) == 0
    return root


def test_the_result_is_a_model_folder_that_draws(root: Path) -> None:
    folder = open_model(root / "runs" / "llm" / "squares")
    assert folder.vocabulary.grids == {"64x64": [4, 4], "64x32": [2, 4]}
    assert folder.config.default_size == "64x64"
    tokenizer = folder.load_visual_tokenizer(with_vocabulary=True)
    for size in ("64x64", "64x32"):
        width, height = parse_size(size)
        codes = tokenizer.encode(folder.load_autoencoder().encode(torch.zeros(1, 3, height, width)))
        request = DecodeRequest(codes[0], 0, size, rounds=2, flow_steps=2)
        assert Decoder.from_folder(folder).decode([request])[0].shape == (height, width, 3)
        assert folder.prompt_encoder.encode("a red square at 8", size)[0] == folder.vocabulary.bos_id


def test_stock_transformers_loads_the_llm_and_its_text_rows_are_the_vocabulary(root: Path) -> None:
    folder = open_model(root / "runs" / "llm" / "squares")
    llm = LlamaForCausalLM.from_pretrained(folder.llm_dir, local_files_only=True)
    text = load_file(str(root / "runs" / "tokenizer" / "visual_tokenizer" / "vocabulary.safetensors"))[
        "embedding"
    ]
    torch.testing.assert_close(llm.model.embed_tokens.weight[:300].float(), text, rtol=1e-2, atol=1e-3)


def test_a_phi3_is_trained_too(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "model.model_type=phi3", "--set", "loop.steps=1"]
    assert main(command(root, "llm", "phi3", *settings)) == 0
    folder = open_model(root / "runs" / "phi3" / "squares")
    assert folder.llm_config["architectures"] == ["V2FlowPhi3ForCausalLM"]
    _, info = Phi3ForCausalLM.from_pretrained(folder.llm_dir, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    llama = root / "runs" / "llm" / "squares"
    assert main(command(root, "llm", "phi3-on", *settings, "--init", str(llama))) == 2
    assert "model_type llama, expected phi3" in capsys.readouterr().err
    assert main(command(root, "llm", "other", "--set", "model.model_type=gpt2")) == 2
    assert "one of llama, phi3, got 'gpt2'" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["vae", "tokenizer", "llm"])
def test_metrics_and_sample_sheets_are_written(root: Path, stage: str) -> None:
    lines = [json.loads(line) for line in (root / "runs" / stage / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in line and "images_per_second" in line for line in lines) == 6
    assert any(any(key.startswith("heldout") for key in line) for line in lines)
    assert (root / "runs" / stage / "samples" / "0000006.png").stat().st_size > 100


@pytest.mark.parametrize("stage", ["vae", "tokenizer", "llm"])
def test_a_resumed_run_ends_with_the_same_weights(
    root: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = root / "runs" / stage
    from v2flow_engine.training import loop

    original = loop._save

    def stop_after_first(*args, **kwargs) -> None:
        original(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", stop_after_first)
    assert main(command(root, stage, f"{stage}-again")) == 130
    monkeypatch.setattr(loop, "_save", original)
    assert main(command(root, stage, f"{stage}-again")) == 0
    ours, theirs = (
        torch.load(folder / loop.CHECKPOINT, weights_only=True)
        for folder in (root / "runs" / f"{stage}-again", whole)
    )
    assert ours["step"] == theirs["step"] == 6
    for part in ("net", "ema"):
        for key, value in theirs[part].items():
            # Sums of floats in another order differ by 1e-7, which Muon's bfloat16 can make 1e-4 in single
            # weights; a lost optimizer state, seed or average moves whole tensors.
            difference = (ours[part][key].double() - value.double()).abs()
            assert difference.mean() < 1e-5 and difference.max() < 5e-4, f"{part} {key}"


def test_a_finished_run_goes_on_for_more_steps(root: Path) -> None:
    out = root / "runs" / "vae-longer"
    for steps in (2, 5):
        assert main(command(root, "vae", "vae-longer", "--set", f"loop.steps={steps}")) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]


def test_the_decoder_trains_on_while_the_codes_stay(root: Path) -> None:
    model = root / "runs" / "llm" / "squares"
    extra = ["--init", str(model), "--set", "freeze_codes=true"]
    assert main(command(root, "tokenizer", "decoder-only", *extra)) == 0
    before = load_file(str(model / "visual_tokenizer" / "model.safetensors"))
    after = load_file(str(root / "runs" / "decoder-only" / "visual_tokenizer" / "model.safetensors"))
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key].float(), after[key])}
    assert moved == {"projector", "masked_transformer", "velocity", "null_condition"}


@pytest.mark.parametrize("stage", ["vae", "llm"])
def test_training_goes_on_from_a_model(root: Path, stage: str) -> None:
    extra = [
        "--init",
        str(root / "runs" / "llm" / "squares"),
        "--set",
        "loop.steps=1",
        "--set",
        "loop.warmup=50",
    ]
    assert main(command(root, stage, f"{stage}-on", *extra)) == 0
    first = json.loads((root / "runs" / f"{stage}-on" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    start, *_, end = [
        json.loads(line)["loss"]
        for line in (root / "runs" / stage / "metrics.jsonl").read_text().splitlines()
        if "loss" in json.loads(line)
    ]
    assert abs(first - end) < abs(first - start)


def test_other_settings_do_not_continue_a_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(root, "vae", "vae", "--set", "loop.learning_rate=0.1")) == 2
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "extra", "message"),
    [
        ("vae", ["--set", "loop.stepps=3"], "stepps"),
        ("vae", ["--set", "nonsense"], "loop.steps=100"),
        ("vae", ["--data", "nowhere"], "no shards"),
        ("vae", ["--config", "nowhere.yaml"], "nowhere.yaml"),
        ("tokenizer", ["--vae", "nowhere"], "--vae"),
        ("llm", ["--set", "text_vocab_size=200"], "300"),
        ("tokenizer", ["--set", "freeze_codes=true"], "--init"),
        ("vae", ["--init", "nowhere"], "nowhere"),
        ("vae", ["--out", "/proc/nowhere"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(
    root: Path, stage: str, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(root, stage, "bad", *extra)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize("faster", [True, False])
def test_networks_compute_in_bfloat16_where_that_is_faster(
    root: Path, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without loop.bf16 a run is the one with what the machine does better."""
    monkeypatch.setattr("v2flow_engine.training.command.bfloat16_is_faster", lambda device: faster)
    one = ["--set", "loop.steps=2"]
    losses = []
    for name, said in (("left", "null"), ("said", str(faster).lower())):
        assert main(command(root, "llm", f"{name}-{faster}", *one, "--set", f"loop.bf16={said}")) == 0
        lines = (root / "runs" / f"{name}-{faster}" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss") for line in lines])
    assert losses[0] == losses[1]
    other = str(not faster).lower()
    assert main(command(root, "llm", f"other-{faster}", *one, "--set", f"loop.bf16={other}")) == 0
    lines = (root / "runs" / f"other-{faster}" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line).get("loss") for line in lines] != losses[0]
