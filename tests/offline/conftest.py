"""What the offline tests share: a tiny model on disk and one Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_model import build_tiny_model
from v2flow_engine.cli import main
from v2flow_engine.offline.cluster import ray_cluster


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder."""
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def undisturbed(model_dir: Path, ray_running: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 pictures of one prompt, made through Ray by `v2flow generate` with nothing in the way."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert (
        main(["generate", "--model", str(model_dir), "--prompt", "a cat", "--n", "130", "--out", str(out)])
        == 0
    )
    return out


@pytest.fixture(scope="session")
def ray_running() -> Iterator[None]:
    """A Ray cluster, started once; the offline path uses a cluster that runs."""
    with ray_cluster():
        yield
