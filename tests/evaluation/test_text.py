"""`v2flow eval text` on tiny random LLMs: its arithmetic against transformers' own, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.shaped_llm import SHAPES, build_plain_llm
from tests.tiny_llm import CAPTIONS
from tests.tiny_model import build_tiny_model, tiny_tokenizer_config
from v2flow_engine import cli
from v2flow_engine.config import load_json, save_json
from v2flow_engine.evaluation.image_context import DRAWN_TOGETHER, choose_captions, draw_contexts
from v2flow_engine.evaluation.text_models import DrawingLlm, load_llm
from v2flow_engine.evaluation.text_scores import TextScores, compare, score
from v2flow_engine.evaluation.texts import as_prose, python_prose
from v2flow_engine.models.visual_tokenizer import VisualTokenizer
from v2flow_engine.vocabulary import VisualVocabulary

WINDOW = 24
PROSE = (
    "A sentence of a paragraph that is long enough to be kept, because it says something to whoever reads it."
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, a model folder; base/, what its LLM was made from; text.txt, of captions."""
    root = tmp_path_factory.mktemp("text")
    build_tiny_model(root / "model", grids={"32x32": [2, 2]})
    write_base(root / "model" / "llm", root / "base")
    (root / "text.txt").write_text(". ".join(CAPTIONS * 4))
    return root


def write_base(llm: Path, base: Path) -> None:
    """The LLM without its control and visual rows, as a plain checkpoint."""
    vocabulary = VisualVocabulary.from_llm_config(load_json(llm / "config.json"))
    net = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32)
    net.resize_token_embeddings(vocabulary.text_vocab_size)
    net.save_pretrained(base)
    config = load_json(base / "config.json")
    config.pop("v2flow", None)
    (base / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(llm / name, base / name)


def command(root: Path, *options: str, model: str | None = None, base: Path | None = None) -> list[str]:
    folders = ["--model", model or str(root / "model"), "--base", str(base or root / "base")]
    return ["eval", "text", *folders, "--text", str(root / "text.txt"), "--window", str(WINDOW), *options]


def measured(capsys: pytest.CaptureFixture[str], *argv: str) -> dict:
    """The document on the last line of a run."""
    capsys.readouterr()
    assert cli.main(list(argv)) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def error_of(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    capsys.readouterr()
    assert cli.main(argv) == 2
    return capsys.readouterr().err


def plain_loss(llm: torch.nn.Module, window: torch.Tensor, context: list[int]) -> float:
    """The window's cross-entropy, its first token not scored, as transformers computes it."""
    ids = torch.tensor([[*context, *window.tolist()]])
    labels = ids.clone()
    labels[:, : len(context) + 1] = -100
    with torch.inference_mode():
        return float(llm(input_ids=ids, labels=labels).loss)


@pytest.mark.parametrize("contexts", [None, [[0, 5, 9, 300, 301], [0, 7], [0, 1, 2, 3, 4, 5, 6, 305, 330]]])
def test_scores_are_what_transformers_computes_whatever_the_batch(
    root: Path, contexts: list[list[int]] | None
) -> None:
    """Contexts of several lengths are padded in a batch."""
    llm = load_llm(root / "model" / "llm", "cpu")
    text_rows = DrawingLlm.open(str(root / "model")).vocabulary.text_vocab_size
    windows = torch.randint(0, text_rows, (7, 12), generator=torch.Generator().manual_seed(1))
    scores = score(llm, text_rows, windows, contexts, batch=3)
    before = contexts or [[]]
    expected = [plain_loss(llm, window, before[i % len(before)]) for i, window in enumerate(windows)]
    torch.testing.assert_close(scores.loss, torch.tensor(expected).double(), atol=1e-5, rtol=1e-5)
    assert scores.perplexity == pytest.approx(math.exp(sum(expected) / 7), rel=1e-5)
    for batch in (1, 100):
        others = score(llm, text_rows, windows, contexts, batch)
        for name in ("loss", "text_loss", "other_rows"):
            torch.testing.assert_close(getattr(others, name), getattr(scores, name), atol=1e-5, rtol=1e-5)


def test_what_is_lost_to_other_rows_is_told_apart() -> None:
    base = TextScores(*torch.tensor([[0.5, 1.5], [0.5, 1.5], [0.0, 0.0]]).double())
    worse = TextScores(*torch.tensor([[0.6, 1.8], [0.5, 1.7], [0.2, 0.4]]).double())
    found = compare(worse, base)
    assert found["perplexity"] == pytest.approx(math.exp(1.2))
    assert found["ratio"] == pytest.approx(math.exp(0.2))
    assert found["log_ratio_error"] == pytest.approx(0.1)  # of 0.1 and 0.3: 0.1414 / sqrt(2)
    assert found["text_rows_ratio"] == pytest.approx(math.exp(0.1))
    assert found["other_rows"] == pytest.approx(0.3)
    one = TextScores(*torch.ones(3, 1).double())
    assert compare(one, one)["log_ratio_error"] is None

    class Net:
        """Logits that do not depend on the input."""

        device = torch.device("cpu")

        def model(self, input_ids: torch.Tensor, use_cache: bool) -> object:
            return type("Output", (), {"last_hidden_state": input_ids[..., None].float()})

        def lm_head(self, states: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(states), 4)

    scores = score(Net(), 2, torch.tensor([[0, 1, 1]]))
    assert scores.loss.tolist() == pytest.approx([math.log(4)])
    assert scores.text_loss.tolist() == pytest.approx([math.log(2)])
    assert scores.other_rows.tolist() == pytest.approx([0.5])


def test_contexts_are_pictures_of_the_model_itself(root: Path) -> None:
    model = DrawingLlm.open(str(root / "model"))
    vocabulary, size = model.vocabulary, model.smallest_size
    assert size == "32x32"
    llm = load_llm(model.folder, "cpu")
    captions = choose_captions(10)
    contexts = draw_contexts(llm, model, captions, seed=3)
    assert captions[8] == captions[0] and contexts[8] != contexts[0]
    for caption, context in zip(captions, contexts, strict=True):
        prompt = model.encoder.encode(caption, size)
        assert context[: len(prompt)] == prompt and context[-1] == vocabulary.image_end_id
        assert len(vocabulary.codes(context[len(prompt) : -1], size)) == 4
    assert contexts == draw_contexts(llm, model, captions, seed=3)
    assert contexts != draw_contexts(llm, model, captions, seed=4)
    assert contexts[:DRAWN_TOGETHER] == draw_contexts(llm, model, captions[:DRAWN_TOGETHER], seed=3)


def test_an_llm_that_only_got_rows_lost_nothing_but_to_them(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(capsys, *command(root, "--windows", "6", "--images", "3"))
    assert found["command"] == "eval text"
    assert found["alone_text_rows_ratio"] == pytest.approx(1, abs=1e-5)
    assert found["alone_perplexity"] == pytest.approx(found["base_perplexity"] * found["alone_ratio"])
    assert found["alone_ratio"] > 1 and 0 < found["alone_other_rows"] < 1
    assert found["after_image_ratio"] != found["alone_ratio"] and found["after_image_log_ratio_error"] > 0
    setup = found["setup"]
    assert (setup["windows"], setup["scored_tokens"], setup["images"]) == (6, 6 * (WINDOW - 1), 3)
    assert (setup["size"], setup["guidance_scale"], setup["softmax"]) == ("32x32", 3.0, "all rows")
    assert setup["texts"] == [str(root / "text.txt")]
    again = measured(capsys, *command(root, "--windows", "6", "--images", "3", "--batch", "1"))
    for name in ("base_perplexity", "alone_ratio", "after_image_ratio"):
        assert again[name] == pytest.approx(found[name], rel=1e-5)


@pytest.mark.parametrize("shape", ["smollm2", "phi-3-mini-128k"])
def test_an_llm_folder_of_convert(
    shape: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tokenizer, llm = tmp_path / "base", tmp_path / "visual_tokenizer", tmp_path / "llm"
    text_vocab_size = build_plain_llm(base, **SHAPES[shape])
    tokenizer.mkdir()
    visual = VisualTokenizer(tiny_tokenizer_config(text_vocab_size, SHAPES[shape].get("hidden_size", 128)))
    save_file(visual.state_dict(), tokenizer / "model.safetensors")
    save_json(visual.config, tokenizer / "config.json")
    options = ["--visual-tokenizer", str(tokenizer), "--size", "64x64", "--out", str(llm)]
    assert cli.main(["convert", "llm", "--base", str(base), *options]) == 0
    found = measured(capsys, *command(root, "--windows", "4", model=str(llm), base=base))
    assert found["alone_text_rows_ratio"] == pytest.approx(1, abs=1e-5)
    assert found["setup"]["images"] == 4 and found["setup"]["size"] == "64x64"


def test_without_a_text_it_reads_pythons_documentation(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--model", str(root / "model"), "--base", str(root / "base")]
    options = ["--window", "16", "--windows", "2"]
    setup = measured(capsys, "eval", "text", *folders, *options)["setup"]
    assert setup["texts"][0].startswith("pydoc_data.topics of Python 3.")
    assert setup["text_tokens"] > 10_000


def test_prose_is_told_from_markup() -> None:
    assert as_prose("\n   ".join(["   " + PROSE[:40], PROSE[40:]])) == " ".join(
        (PROSE[:40] + " " + PROSE[40:]).split()
    )
    for other in (
        "",
        "Numeric literals\n****************",
        "A short sentence.",
        "* a list:\n  " + PROSE,
        PROSE + "\n   and a line that is set in.",
        PROSE[:-1],
        '(1 + 2) * 3 == 9, "x" | "y" : {4: 5, 6: [7]}; ' + PROSE,
    ):
        assert as_prose(other) is None
    paragraphs = python_prose().content.split("\n\n")
    assert len(paragraphs) > 200 and len(set(paragraphs)) == len(paragraphs)


def test_texts_and_lengths_that_do_not_fit_are_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, short = tmp_path / "empty.txt", tmp_path / "short.txt"
    empty.write_text(" \n")
    short.write_text("a cat")
    for options, expected in (
        (["--text", str(empty)], "is empty, expected text"),
        (["--text", str(tmp_path / "none.txt")], "none.txt cannot be read: No such file"),
        (["--text", str(root / "text.txt"), str(short)], f"tokens, expected {WINDOW} or more"),
        (["--window", "1"], "--window must be at least 2, got 1"),
        (["--images", "0"], "--images must be at least 1, got 0"),
        (["--window", "129"], "--window is 129"),
        (["--window", "110"], "takes at most 128"),
    ):
        assert expected in error_of(capsys, command(root, *options))


def test_another_llms_text_ids_are_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_plain_llm(tmp_path / "wider", **SHAPES["smollm2"])
    assert "expected the LLM that it was made from" in error_of(
        capsys, command(root, base=tmp_path / "wider")
    )
    other = tmp_path / "other"
    shutil.copytree(root / "base", other)
    tokenizer = load_json(other / "tokenizer.json")
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = error_of(capsys, command(root, base=other))
    assert "expected the same text tokenizer" in message and "text.txt" in message
    assert "this LLM has visual tokens; expected the plain one" in error_of(
        capsys, command(root, base=root / "model" / "llm")
    )
    assert "no 'v2flow' block" in error_of(capsys, command(root, model=str(root / "base")))


def test_missing_weights_are_not_drawn_at_random(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "base"
    shutil.copytree(root / "base", broken)
    weights = load_file(broken / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert "weights are missing: ['model.norm.weight']" in error_of(capsys, command(root, base=broken))
    (broken / "model.safetensors").unlink()
    assert "cannot be loaded" in error_of(capsys, command(root, base=broken))
