"""The command line as a user meets it: help, exit statuses, and one line for a mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from v2flow_engine import cli
from v2flow_engine.cores import usable_cores
from v2flow_engine.errors import V2FlowError


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; stdout must be empty."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("v2flow: error: ")
    return captured.err


@pytest.mark.parametrize("words", cli.COMMANDS, ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--help"]) == 0
    assert f"usage: v2flow {' '.join(words)} " in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["--help"], ["help"]])
def test_overview_lists_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    listed = capsys.readouterr().out
    assert all(f"  {' '.join(words)} " in listed for words in cli.COMMANDS)


def test_overview_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    listed = capsys.readouterr().out
    assert "train tokenizer" in listed
    assert "generate" not in listed


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["generat"], "did you mean 'generate'?"),
        (["train"], "vae, tokenizer, llm"),
        (["train", "llms"], "did you mean 'llm'?"),
        (["data", "birds"], "There are: emoji"),
        (["info", "--colour"], "--colour (see v2flow info --help)"),
        (["info", "--model", "no-such-model"], "no model 'no-such-model'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert expected in error_line(capsys)


def test_a_broken_model_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{")
    assert cli.main(["info", "--model", str(tmp_path)]) == 2
    assert str(tmp_path) in error_line(capsys)


def raising(error: BaseException) -> dict[str, object]:
    """A replacement for `info.run` that fails in one way."""

    def run(args: object) -> int:
        raise error

    return {"target": "v2flow_engine.info.run", "name": run}


def test_a_message_of_several_lines_becomes_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(**raising(V2FlowError("got 3,\n  expected 4")))
    assert cli.main(["info"]) == 2
    assert error_line(capsys) == "v2flow: error: got 3, expected 4\n"


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(**raising(ModuleNotFoundError("No module named 'resvg_py'", name="resvg_py")))
    assert cli.main(["info"]) == 2
    assert "'resvg_py'" in error_line(capsys)


def test_an_own_missing_module_is_no_user_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(**raising(ModuleNotFoundError("No module", name="v2flow_engine.nowhere")))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["info"])


def test_interrupted_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(**raising(KeyboardInterrupt()))
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "v2flow: interrupted\n"


def test_info_reports_versions_and_device(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert cli.main(["info"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["torch"] == torch.__version__
    assert rows["cores"] == str(usable_cores())
    assert {"python", "ray", "transformers", "device", "model"} <= rows.keys()


def test_installed_script_keeps_quiet_when_its_reader_leaves() -> None:
    script = Path(sys.executable).with_name("v2flow")
    with subprocess.Popen([script, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before the first line is written
        assert process.stderr.read() == b""
    assert process.returncode == 141
