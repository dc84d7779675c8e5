"""What the tests of the plugin in a plain vLLM engine share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.tiny_llm import CAPTIONS, build_tiny_llm
from tests.two_pass import TwoPass
from v2flow_engine.prompts import PromptEncoder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny LLM with an untied head, its prompts and its two-pass loop."""
    folder = tmp_path_factory.mktemp("plugin") / "llm"
    vocabulary = build_tiny_llm(folder, tie=False)
    encoder = PromptEncoder(folder, vocabulary, max_model_len=128)
    prompts = [encoder.encode(caption, "64x64") for caption in CAPTIONS]
    assert len({len(p) for p in prompts}) >= 4
    return SimpleNamespace(
        folder=folder, vocabulary=vocabulary, prompts=prompts, loop=TwoPass(folder, vocabulary)
    )
