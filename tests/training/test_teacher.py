"""`v2flow train llm --teacher`: an LLM learns what one that draws already expects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.test_pretrained_llm import LORA, trained, write_llms
from tests.training.test_training import command
from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.cli import main
from v2flow_engine.training.captioned import Captioned
from v2flow_engine.training.teacher import Teacher
from v2flow_engine.vocabulary import VisualVocabulary

TEACHER = "runs/teacher/squares"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `write_llms` writes, and a teacher trained from nothing in its codes."""
    root = write_llms(tmp_path_factory.mktemp("taught"))
    long = ["--set", "model.hidden_size=128", "--set", "loop.steps=60", "--set", "loop.learning_rate=0.01"]
    assert main(command(root, "llm", "teacher", *long)) == 0
    return root


def captioned(vocabulary: VisualVocabulary, words: list[int]) -> Captioned:
    """Three pictures of 64x64 with two wordings each, of unequal length."""
    tail = [vocabulary.image_start_id, vocabulary.size_token_ids["64x64"]]
    rows = [[vocabulary.bos_id, *words[: 2 + i % 3], *tail] for i in range(6)]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int32).view(3, 2)
    padded = [row + [vocabulary.null_id] * (7 - len(row)) for row in rows]
    codes = torch.arange(48).view(3, 16) % vocabulary.codebook_size
    return Captioned("64x64", torch.tensor(padded, dtype=torch.int32).view(3, 2, 7), lengths, codes)


def open_both(root: Path) -> tuple[ModelFolder, VisualVocabulary]:
    """The teacher, and the student's vocabulary, whose ids are others."""
    trained(root, "tied", "plain", "--set", "loop.steps=1")
    teacher, student = open_model(root / TEACHER), open_model(root / "runs/plain/squares").vocabulary
    assert teacher.vocabulary.visual_offset != student.visual_offset
    return teacher, student


def test_expectations_are_those_of_the_teacher_in_the_students_ids(root: Path) -> None:
    folder, student = open_both(root)
    own = folder.vocabulary
    data = captioned(own, [20, 31, 42, 53])
    teacher = Teacher(folder.llm_dir, own, [data], student, torch.device("cpu"))
    rows, variants = torch.tensor([2, 0, 1]), torch.tensor([1, 0, 0])
    dropped = torch.tensor([[False], [False], [True]])
    told = teacher.expects(0, rows, variants, dropped)
    net = AutoModelForCausalLM.from_pretrained(folder.llm_dir).eval()
    first = student.text_vocab_size
    for row, variant, drop, found in zip(rows, variants, dropped, told, strict=True):
        prompt = data.prompt_ids[row, variant, : data.lengths[row, variant]].long()
        prompt = own.unconditional_ids(prompt) if drop else prompt
        ids = torch.cat([prompt, data.codes[row] + own.visual_offset])
        logits = net(input_ids=ids[None]).logits[0, len(prompt) - 1 :]
        kept = [own.image_end_id, *range(own.visual_offset, own.visual_offset + own.codebook_size)]
        expected = logits[:, kept].softmax(-1)
        torch.testing.assert_close(found[:, student.image_end_id - first], expected[:, 0])
        torch.testing.assert_close(found[:, student.visual_offset - first :], expected[:, 1:])
    torch.testing.assert_close(told.sum(-1), torch.ones(told.shape[:2]))


def test_what_is_learnt_is_what_the_teacher_expects(root: Path) -> None:
    """On the same pictures, a student that is taught comes nearer to the teacher than one that sees codes alone."""
    long = ["--set", "head=visual", *LORA, "--set", "loop.steps=60", "--set", "loop.learning_rate=0.01"]
    teach = ["--teacher", str(root / TEACHER)]
    ends = []
    for name, share in (("taught", 1), ("told", 0)):
        trained(root, "tied", name, *long, *teach, "--set", f"teacher_share={share}")
        lines = [
            json.loads(line) for line in (root / "runs" / name / "metrics.jsonl").read_text().splitlines()
        ]
        steps = [line for line in lines if "taught_loss" in line]
        assert all(
            line["loss"] == pytest.approx(line["taught_loss" if share else "image_loss"], rel=1e-5)
            for line in steps
        )
        ends.append(sum(line["taught_loss"] for line in steps[-12:]) / 12)
    assert ends[0] < 0.95 * ends[1], ends


@pytest.mark.parametrize(
    ("stage", "extra", "message"),
    [
        ("llm", ["--teacher", TEACHER], "needs head=visual, got head=all"),
        ("llm", ["--teacher", "nowhere"], "no model 'nowhere'"),
        ("llm", ["--teacher", "v2flow-emoji", "--set", "head=visual"], "a teacher needs the codes of"),
        ("llm", ["--set", "teacher_share=2"], "teacher_share must be in [0, 1], got 2"),
        ("vae", ["--teacher", TEACHER], "--teacher goes with v2flow train llm, not with vae"),
    ],
)
def test_bad_input_is_one_line(
    root: Path, stage: str, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = [str(root / TEACHER) if each == TEACHER else each for each in extra]
    llm = ["--llm", str(root / "tied")] if stage == "llm" else []
    assert main(command(root, stage, "bad", *llm, *extra)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_run_goes_on_with_its_own_teacher_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--set", "head=visual", *LORA, "--teacher", str(root / TEACHER)]
    trained(root, "tied", "again", *given)
    assert (
        main(command(root, "llm", "again", "--llm", str(root / "tied"), *given[:-2], "--set", "loop.steps=7"))
        == 2
    )
    assert "teacher" in capsys.readouterr().err
    lines = [json.loads(line) for line in (root / "runs/again/metrics.jsonl").read_text().splitlines()]
    assert any("heldout_loss" in line for line in lines)
