"""`v2flow serve` told to end while it starts: at once, in order, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.serving.conftest import WAIT
from v2flow_engine.checkpoint import ModelFolder

SOON = 20.0  # seconds, on a busy machine; an engine takes longer to start there


@pytest.mark.parametrize("later", [0.0, 4.0])
def test_a_signal_before_it_is_ready(folder: ModelFolder, tmp_path: Path, later: float) -> None:
    options = ["--model", str(folder.path), "--port", "0", "--single-process"]
    command = [sys.executable, "-m", "v2flow_engine.cli", "serve", *options]
    given = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=given, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "will serve" in process.stderr.readline()
        time.sleep(later)
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        _, told = process.communicate(timeout=WAIT)
        assert process.returncode in (0, 128 + signal.SIGTERM), told
        assert time.monotonic() - begun < SOON
        assert "Traceback" not in told and "ready after" not in told
    assert not list(tmp_path.glob("v2flow-*"))
