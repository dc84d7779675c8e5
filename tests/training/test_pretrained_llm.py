"""`v2flow train llm --llm`: an LLM that got visual tokens is trained, whole or by adapters, and keeps its text rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from tests.shaped_llm import SHAPES, build_plain_llm
from tests.training.test_training import command
from tests.training.tiny_run import write_all
from v2flow_engine.checkpoint import open_model
from v2flow_engine.cli import main
from v2flow_engine.training.kept_text import read_texts, text_windows
from v2flow_engine.training.llm_losses import text_divergence

SIZES = ["--size", "64x64", "64x32"]
UNTIED = next(name for name, shape in SHAPES.items() if not shape.get("tie_word_embeddings", False))
LORA = ["--set", "lora.rank=4", "--set", "lora.alpha=8"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a trained autoencoder and tokenizer, and two LLMs with visual tokens: tied/ and untied/."""
    return write_llms(tmp_path_factory.mktemp("pretrained"))


def write_llms(root: Path) -> Path:
    """What `root` says, in a new folder; the LLMs' bases are tied-base/ and untied-base/."""
    write_all(root)
    assert main(command(root, "vae", "vae")) == 0
    model = ["--set", "model.text_vocab_size=null", "--set", "model.code_dim=128"]
    assert main(command(root, "tokenizer", "tokenizer", *model)) == 0
    for name, tied in (("tied", True), ("untied", False)):
        build_plain_llm(root / f"{name}-base", **SHAPES[UNTIED] | {"tie_word_embeddings": tied})
        assert main(convert(root, name, *SIZES)) == 0
    return root


def convert(root: Path, name: str, *sizes: str) -> list[str]:
    tokenizer = ["--visual-tokenizer", str(root / "runs" / "tokenizer" / "visual_tokenizer")]
    base = ["--base", str(root / f"{name.split('-')[0]}-base")]
    return ["convert", "llm", *base, *tokenizer, "--out", str(root / name), *sizes]


def trained(root: Path, name: str, out: str, *extra: str) -> dict[str, torch.Tensor]:
    assert main(command(root, "llm", out, "--llm", str(root / name), *extra)) == 0
    return load_file(str(root / "runs" / out / "llm" / "model.safetensors"))


@pytest.mark.parametrize("name", ["tied", "untied"])
@pytest.mark.parametrize("lora", [False, True])
def test_text_rows_stay_and_the_rest_learns(root: Path, name: str, lora: bool) -> None:
    after = trained(root, name, f"{name}-{lora}", *(LORA if lora else []))
    before = load_file(str(root / name / "model.safetensors"))
    assert after.keys() == before.keys()
    folder = open_model(root / "runs" / f"{name}-{lora}" / "squares")
    text = folder.vocabulary.text_vocab_size
    rows = ["model.embed_tokens.weight", *([] if name == "tied" else ["lm_head.weight"])]
    for key in rows:
        assert torch.equal(after[key][:text], before[key][:text].float())
        assert not torch.equal(after[key][text:], before[key][text:].float())
    moved = {key for key in before if key not in rows and not torch.equal(after[key], before[key].float())}
    projections = {key for key in before if key.endswith("_proj.weight")}
    assert moved == projections if lora else moved >= projections
    assert folder.grids == {"64x64": (4, 4), "64x32": (2, 4)}
    assert (folder.llm_dir / "tokenizer.json").read_bytes() == (root / name / "tokenizer.json").read_bytes()


def test_what_is_exported_computes_what_was_trained(root: Path) -> None:
    """Adapters merged into the weights give the logits that the last evaluation was of."""
    trained(root, "tied", "merged", *LORA)
    lines = [json.loads(line) for line in (root / "runs/merged/metrics.jsonl").read_text().splitlines()]
    reported = next(line for line in lines if "heldout_loss" in line)["heldout_loss"]
    # One step without a learning rate from the exported folder: its evaluation is of the exported weights.
    again = ["--set", "loop.steps=1", "--set", "loop.learning_rate=0.0"]
    assert main(command(root, "llm", "merged-again", "--llm", str(root / "runs/merged/llm"), *again)) == 0
    lines = [json.loads(line) for line in (root / "runs/merged-again/metrics.jsonl").read_text().splitlines()]
    assert next(line for line in lines if "heldout_loss" in line)["heldout_loss"] == pytest.approx(
        reported, rel=1e-5
    )


@pytest.mark.parametrize("start", ["caption_rows", "random_rows", "random"])
def test_starts_to_compare_with(root: Path, start: str) -> None:
    """With no learning rate what comes out is what it started from."""
    kept = ["--set", f"start={start}", "--set", "loop.learning_rate=0.0", "--set", "loop.steps=1"]
    after = trained(root, "tied", start, *kept)
    before = load_file(str(root / "tied" / "model.safetensors"))
    offset = open_model(root / "runs" / start / "squares").vocabulary.visual_offset
    rows, old = after.pop("model.embed_tokens.weight"), before.pop("model.embed_tokens.weight").float()
    same = {key for key in before if torch.equal(after[key], before[key].float())}
    if start != "random":
        assert same == set(before) and torch.equal(rows[:offset], old[:offset])
        mean = old[: open_model(root / "runs" / start / "squares").vocabulary.text_vocab_size].mean(dim=0)
        rows, old = rows[offset:] - mean, old[offset:] - mean
        torch.testing.assert_close(rows.norm(dim=-1), old.norm(dim=-1))
        alike = torch.cosine_similarity(rows, old)
        if start == "random_rows":
            assert (alike.abs() < 0.6).all()
        else:  # the sum of the old direction and a unit vector, or the old one where no caption says anything
            assert alike.min() > 0.3 and (alike < 0.95).any()
    else:
        assert all(key.endswith("norm.weight") for key in same) and not torch.equal(rows, old)


def test_text_is_kept(root: Path) -> None:
    """With text, what the base expects of it moves less than without, alone and behind an image."""
    text = root / "text.jsonl"
    text.write_text(json.dumps({"text": "the quick brown fox jumps over the lazy dog " * 12}) + "\n")
    often = ["--set", "text_share=0.5", "--set", "text_window=8", "--set", "text_weight=2", *LORA]
    often += ["--set", "loop.steps=40", "--set", "loop.learning_rate=0.01"]
    trained(root, "tied", "kept", "--set", "loop.bf16=true", *often, "--text", str(text))
    trained(root, "tied", "not-kept", "--set", "loop.bf16=true", *often)
    lines = [json.loads(line) for line in (root / "runs/kept/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "image_loss" in line]
    assert all(
        line["loss"] == pytest.approx(line["image_loss"] + 2 * line["text_divergence"], rel=1e-5)
        for line in steps
    )
    assert steps[-1]["image_loss"] < steps[0]["image_loss"]
    known = AutoModelForCausalLM.from_pretrained(root / "tied-base").eval()
    folders = [root / "runs" / name / "llm" for name in ("kept", "not-kept")]
    windows = text_windows([text], Tokenizer.from_file(str(folders[0] / "tokenizer.json")), 8).long()
    assert windows.shape[1] == 8 and len(windows) > 1
    image = torch.arange(4) + open_model(root / "runs/kept/squares").vocabulary.visual_offset
    for before in ([image[:0]] * len(windows), [image] * len(windows)):
        kept, other = (
            text_divergence(AutoModelForCausalLM.from_pretrained(each), known, before, windows).mean()
            for each in folders
        )
        assert 0 < kept < 0.7 * other
    # A run may go on with another weight of text, and with nothing else changed.
    more = ["--set", "loop.bf16=true", *often, "--text", str(text), "--set", "loop.steps=42"]
    trained(root, "tied", "kept", *more, "--set", "text_weight=5")
    lines = [json.loads(line) for line in (root / "runs/kept/metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "image_loss" in line][-1]
    assert last["loss"] == pytest.approx(last["image_loss"] + 5 * last["text_divergence"], rel=1e-5)
    other_window = ["--set", "loop.steps=43", "--set", "text_window=4"]
    assert main(command(root, "llm", "kept", "--llm", str(root / "tied"), *more, *other_window)) == 2


def test_text_is_looked_at_in_some_steps_and_counts_as_much(root: Path) -> None:
    text = root / "some.jsonl"
    text.write_text(json.dumps({"text": "the quick brown fox jumps over the lazy dog " * 12}) + "\n")
    some = ["--set", "text_share=1", "--set", "text_window=8", "--set", "text_every=3", "--text", str(text)]
    trained(root, "tied", "some", *some, *LORA)
    lines = [json.loads(line) for line in (root / "runs/some/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "images_per_second" in line]
    assert [line["step"] for line in steps if "text_divergence" in line] == [3, 6]
    for line in steps:
        assert line["loss"] == pytest.approx(
            line.get("image_loss", line["loss"]) + 3 * line.get("text_divergence", 0), rel=1e-5
        )
    assert main(command(root, "llm", "never", "--llm", str(root / "tied"), "--set", "text_every=0")) == 2


def test_text_divergence_is_that_of_each_alone(root: Path) -> None:
    """Windows behind contexts of unequal length differ by what each does alone; a model differs from itself by what
    its visual rows take.
    """
    net, known = (AutoModelForCausalLM.from_pretrained(root / name).eval() for name in ("tied", "tied-base"))
    windows = torch.arange(12).view(3, 4)
    before = [torch.tensor([5, 6, 7]), torch.tensor([], dtype=torch.long), torch.tensor([9])]
    found = text_divergence(net, known, before, windows).detach()
    for each, lead, window in zip(found, before, windows, strict=True):
        expected = known(input_ids=window[None]).logits[0, :-1].softmax(-1)
        logits = net(input_ids=torch.cat([lead, window])[None]).logits[0, len(lead) : -1].log_softmax(-1)
        divergence = (
            torch.nn.functional.kl_div(logits[:, : expected.shape[-1]], expected, reduction="sum") / 3
        )
        assert float(each) == pytest.approx(divergence.item(), rel=1e-4)
    assert float(text_divergence(known, known, [windows[0][:0]] * 3, windows).abs().max()) < 1e-6


def test_head_of_visual_rows(root: Path) -> None:
    """The rows that an image never asks for get no say; the loss is that of a softmax over the others."""
    folder = trained(root, "tied", "head", "--set", "head=visual", "--set", "loop.learning_rate=0.0")
    assert folder
    lines = [json.loads(line) for line in (root / "runs/head/metrics.jsonl").read_text().splitlines()]
    trained(root, "tied", "head-all", "--set", "loop.learning_rate=0.0")
    whole = [json.loads(line) for line in (root / "runs/head-all/metrics.jsonl").read_text().splitlines()]
    assert all(a["loss"] < b["loss"] for a, b in zip(lines, whole, strict=True) if "loss" in a)


def test_an_llm_writes_text(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root / "own.jsonl"
    given = ["data", "text", "--llm", str(root / "tied-base"), "--n", "3", "--tokens", "12"]
    assert main([*given, "--batch", "2", "--out", str(out)]) == 0
    texts = list(read_texts(out))
    assert len(texts) == 3 and all(texts)
    assert main([*given, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["data", "text", "--llm", str(root), "--out", str(root / "more.jsonl")]) == 2
    assert "not an LLM" in capsys.readouterr().err


def test_texts_hold_whatever_ends_a_line(tmp_path: Path) -> None:
    texts = ["one\u2028two", "three\x85four\x0b", "five\nsix"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert list(read_texts(tmp_path / "texts.jsonl")) == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short.txt", "one two", "none of at least 64 tokens"),
        ("bad.jsonl", '{"text": 3}', "line 1: text is int"),
        ("worse.jsonl", "\n[]", "line 2: expected a JSON object with text"),
    ],
)
def test_bad_text_is_named(
    root: Path, name: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / name).write_text(content)
    assert main(command(root, "llm", "bad", "--llm", str(root / "tied"), "--text", str(root / name))) == 2
    assert message in capsys.readouterr().err


def test_a_size_that_was_not_trained_is_no_default(root: Path) -> None:
    given = command(root, "llm", "wide", "--llm", str(root / "tied"), "--set", "loop.steps=1")
    given.remove(str(root / "data"))
    assert main(given) == 0
    assert open_model(root / "runs" / "wide" / "squares").config.default_size == "64x32"


def test_transformers_loads_it(root: Path) -> None:
    trained(root, "untied", "loads", "--set", "loop.steps=1")
    _, info = AutoModelForCausalLM.from_pretrained(root / "runs/loads/llm", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize(
    ("llm", "extra", "message"),
    [
        ("nowhere", [], "--llm DIR"),
        ("tied-base", [], "no 'v2flow' block"),
        ("tied", ["--init", "v2flow-emoji"], "do not go together"),
        ("tied", ["--set", "start=half"], "pretrained, caption_rows, random_rows, random"),
        ("tied", ["--set", "lora.rank=0"], "at least 1"),
        ("tied", ["--set", "head=text"], "all, visual"),
        ("tied", ["--set", "text_share=0"], "(0, 1]"),
        ("tied", ["--set", "text_weight=0"], "text_weight must be above 0"),
        ("tied", ["--text", "nowhere.txt"], "nowhere.txt cannot be read"),
        (None, ["--text", "README.md"], "--llm"),
        (None, ["--set", "start=random"], "--llm DIR"),
    ],
)
def test_bad_input_is_one_line(
    root: Path, llm: str | None, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if llm is None else ["--llm", str(root / llm)]
    assert main(command(root, "llm", "bad", *given, *extra)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_sizes_that_the_llm_lacks_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(convert(root, "tied-square", "--size", "64x64")) == 0
    assert main(command(root, "llm", "bad", "--llm", str(root / "tied-square"))) == 2
    assert "pictures of 64x32" in capsys.readouterr().err
    assert main([*command(root, "vae", "bad"), "--llm", str(root / "tied")]) == 2
    assert "not with vae" in capsys.readouterr().err
