"""Which weights are they? A change in any tensor is seen, and little is read for it."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tiny_model import build_tiny_model
from v2flow_engine.checkpoint import open_model
from v2flow_engine.generation.model_files import model_digest
from v2flow_engine.generation.weight_samples import EVERY, SAMPLE, SMALL_FILE, weight_samples

LAYERS = 30


def digest(path: Path) -> str:
    """Of a file's samples."""
    return hashlib.sha256(b"".join(weight_samples(path))).hexdigest()


def flip(path: Path, start: int, end: int) -> None:
    """Change every byte of a range; a second time changes them back."""
    with path.open("r+b") as file:
        file.seek(start)
        data = np.frombuffer(file.read(end - start), dtype=np.uint8) ^ 1
        file.seek(start)
        file.write(data.tobytes())


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """An LLM's shape: an embedding, layers with a matrix and a norm, and a head; more than a small file."""
    weights = {"embed": torch.zeros(1000, 512), "head": torch.zeros(1000, 512)}
    for layer in range(LAYERS):
        weights[f"layers.{layer}.matrix"] = torch.full((512, 512), float(layer))
        weights[f"layers.{layer}.norm"] = torch.ones(512)
    path = tmp_path / "model.safetensors"
    save_file(weights, str(path))
    assert path.stat().st_size > SMALL_FILE
    return path


def test_every_tensor_is_seen_and_little_is_read(large: Path) -> None:
    before = digest(large)
    with large.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    assert len(header) == 2 + 2 * LAYERS
    for name, entry in header.items():
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        flip(large, start, end)
        assert digest(large) != before, name
        flip(large, start, end)
    assert digest(large) == before
    assert sum(map(len, weight_samples(large))) < large.stat().st_size / 40


def test_names_and_kinds_are_seen(large: Path, tmp_path: Path) -> None:
    data = large.read_bytes()
    other = tmp_path / "other.safetensors"
    other.write_bytes(data.replace(b'"layers.3.norm"', b'"layers.3.nORM"', 1))
    assert digest(other) != digest(large)


def test_a_model_with_tuned_layers_between_a_frozen_embedding_and_head_is_another(
    large: Path, tmp_path: Path
) -> None:
    folder = open_model(build_tiny_model(tmp_path / "model"))
    inside = folder.path / "llm" / "model-2.safetensors"
    large.rename(inside)
    before = model_digest(folder)
    flip(inside, 5 * 2**20, inside.stat().st_size - 5 * 2**20)
    assert model_digest(folder) != before


@pytest.mark.parametrize("header", [b"", (50).to_bytes(8, "little") + b"{" + b"x" * 49])
def test_a_file_of_another_kind_is_sampled_evenly(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(header + random.Random(0).randbytes(3 * EVERY))
    before = digest(path)
    for start in random.Random(1).sample(range(2 * EVERY - SAMPLE), 5):
        flip(path, start, start + EVERY + SAMPLE)
        assert digest(path) != before, start
        flip(path, start, start + EVERY + SAMPLE)
    for start in (0, path.stat().st_size - 1):
        flip(path, start, start + 1)
        assert digest(path) != before, start
        flip(path, start, start + 1)
    assert sum(map(len, weight_samples(path))) < 20 * SAMPLE


def test_of_a_small_file_every_byte_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(200_000))
    before = digest(path)
    flip(path, 100_001, 100_002)
    assert digest(path) != before
