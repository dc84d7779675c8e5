"""`v2flow generate` as a user meets it: what it writes, its exit status, and how it takes mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.offline.folder import check_folder, manifest
from tests.offline.rows import TOO_LONG
from v2flow_engine.cli import main


def test_a_few_pictures_are_made_here_and_not_again(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["generate", "--model", str(model_dir), "--prompt", "a cat", "--prompt", "a dog", "--n", "2"]
    argv += ["--seed", "5", "--format", "webp", "--flow-steps", "2", "--out", str(out)]
    assert main(argv) == 0
    lines = check_folder(out, 4)
    assert [(line["prompt"], line["seed"]) for line in lines] == [
        ("a cat", 5), ("a cat", 6), ("a dog", 7), ("a dog", 8),
    ]  # fmt: skip
    assert lines[0]["parameters"]["flow_steps"] == 2
    assert json.loads((out / "metrics.json").read_text())["history"][-1]["tokens"] == 4 * 16
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "4 images in this process: Ray Data starts from 8 on"
    assert re.fullmatch(rf"4 images in [\d.]+ s, [\d.]+ images/s; see {out}/index\.html", said[-1])

    (out / lines[2]["file"]).unlink()
    times = {line["file"]: (out / line["file"]).stat().st_mtime_ns for line in lines if line["id"] != 2}
    assert main(argv) == 0
    assert [line["sha256"] for line in check_folder(out, 4)] == [line["sha256"] for line in lines]
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    assert capsys.readouterr().err.startswith("1 image in this process")

    assert main(argv) == 0
    assert capsys.readouterr().err == f"0 images, none missing; see {out}/index.html\n"
    assert main([*argv, "--rounds", "3"]) == 2
    assert "rounds was 2, now 3" in capsys.readouterr().err


def test_a_bad_line_in_a_file_is_an_error_row(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text(f"a cat\n{TOO_LONG}\na dog\n")
    argv = ["generate", "--model", str(model_dir), "--prompts", str(prompts), "--out", str(out)]
    assert main(argv) == 1
    assert [(line["id"], line["seed"]) for line in check_folder(out, 2)] == [(0, 0), (2, 2)]
    error = json.loads((out / "errors.jsonl").read_text())
    assert (error["id"], error["row"]) == (1, 2)
    assert error["columns"] == {"prompt": TOO_LONG.strip()}
    assert f"{prompts}, line 2: the prompt has" in error["error"]
    assert "1 image failed, the first: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--prompt": " "}, "--prompt 1: the prompt is empty"),
        ({"--prompt": TOO_LONG}, "this model takes at most"),
        ({"--prompt": None, "--prompts": "missing.txt"}, "missing.txt: cannot read prompts (No such file"),
        ({"--prompt": None, "--prompts": "empty.txt"}, "empty.txt: holds no prompt"),
        ({"--prompt": None, "--prompts": "bad.txt"}, "bad.txt, line 1: the prompt has"),
        ({"--prompt": None}, "one of the arguments --prompt --prompts is required"),
        ({"--prompts": "empty.txt"}, "not allowed with argument"),
        ({"--model": "no-such-model"}, "no model 'no-such-model'"),
        ({"--model": "truncated"}, "truncated/vae/diffusion_pytorch_model.safetensors: not a readable"),
        ({"--model": "partial"}, "partial: not a model folder, vae missing"),
        ({"--size": "128x128"}, "size '128x128' is not one of this model's: 64x64"),
        ({"--n": "0"}, "n must be a whole number from 1"),
        ({"--n": "two"}, "invalid int value: 'two'"),
        ({"--seed": "-1"}, "seed must be a whole number from 0"),
        ({"--rounds": "17"}, "rounds must be a whole number from 1 to 16, got 17"),
        ({"--temperature": "nan"}, "temperature must be a number"),
        ({"--format": "gif"}, "invalid choice: 'gif'"),
        ({"--token-actors": "0"}, "--token-actors must be a whole number from 1"),
        ({"--out": "empty.txt"}, "empty.txt: is not a folder"),
        ({"--out": "empty.txt/below"}, "is not a folder"),
        ({"--out": "/proc/v2flow"}, "/proc/v2flow: cannot be created"),
        ({"--out": "."}, "holds other files"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    changes: dict[str, str | None],
    said: str,
    model_dir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "bad.txt").write_text(TOO_LONG)
    for broken in ("truncated", "partial"):
        shutil.copytree(model_dir, broken)
    weights = Path("truncated/vae/diffusion_pytorch_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-10])
    shutil.rmtree("partial/vae")
    before = sorted(tmp_path.rglob("*"))
    options: dict[str, str | None] = {"--model": str(model_dir), "--prompt": "a cat", "--out": "out"}
    argv = [
        word for name, value in (options | changes).items() if value is not None for word in (name, value)
    ]
    assert main(["generate", *argv]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("v2flow: error: ")
    assert said in captured.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(model_dir: Path, tmp_path: Path) -> None:
    """A whole process group is interrupted, as a terminal does it, in the middle of a job on its own Ray."""
    out, log = tmp_path / "out", tmp_path / "log"
    argv = [sys.executable, "-m", "v2flow_engine.cli", "generate", "--model", str(model_dir)]
    argv += ["--prompt", "a cat", "--n", "800", "--rounds", "16", "--flow-steps", "10", "--out", str(out)]
    with log.open("w") as stderr:
        process = subprocess.Popen(argv, stderr=stderr, cwd="/", start_new_session=True)
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline and len(list(out.glob("*.png"))) < 4:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=120) == 130, log.read_text()
    kept = len(list(out.glob("*.png")))
    assert 4 <= kept < 800
    assert len(check_folder(out, len(manifest(out)))) in (kept, kept - 1)
    assert "interrupted; " in log.read_text()
    assert "Traceback" not in log.read_text()
