"""What the tests with a token engine share: a request for a caption, and one thread for tiny matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tests.tiny_llm import CAPTIONS
from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.generation.request import TokenRequest


def request_for(folder: ModelFolder, index: int, **changes: object) -> TokenRequest:
    """The `index`-th caption as a request for 16 tokens with its own seed, some fields changed."""
    prompt = folder.prompt_encoder.encode(CAPTIONS[index % len(CAPTIONS)], "64x64")
    return dataclasses.replace(TokenRequest(prompt, 16, seed=100 + index), **changes)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: with tiny matrices on a busy machine, threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
