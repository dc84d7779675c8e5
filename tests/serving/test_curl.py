"""The first request of the documentation, by the `curl` that it names."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving.conftest import WAIT, Live
from v2flow_engine.images import read_metadata

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"


def documented(live: Live) -> str:
    """The command that makes a picture, at a server's own address."""
    _, found, rest = DOCUMENT.read_text(encoding="utf-8").partition("    curl localhost:8000/v1/images")
    lines = (found + rest).split("\n\n", 1)[0]
    assert found and "generations" in lines
    return lines.replace("localhost:8000", f"127.0.0.1:{live.port}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_the_documented_command_makes_a_picture(live: Live, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", documented(live)], capture_output=True, text=True, check=True, timeout=WAIT
    )
    [picture] = json.loads(done.stdout)["data"]
    assert picture["seed"] == 7
    subprocess.run(
        ["curl", "--silent", "--fail", "--output", "picture", picture["url"]],
        cwd=tmp_path,
        check=True,
        timeout=WAIT,
    )
    assert read_metadata(tmp_path / "picture").prompt == "a cartoon cat on a blue background"
