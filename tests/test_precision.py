"""`--dtype`: both stages compute in what was asked for, pictures say so, and encoding stays exact."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine_common import one_thread
from tests.offline.folder import check_folder
from tests.tiny_model import SIZE, build_tiny_model
from v2flow_engine import Pipeline
from v2flow_engine.checkpoint import open_model
from v2flow_engine.cli import main
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.errors import RequestError
from v2flow_engine.precision import bfloat16_is_faster, decoder_dtype, named_dtype
from v2flow_engine.serving.in_process import InProcessBackend
from v2flow_engine.serving.settings import ServerSettings

pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipeline(model_dir: Path) -> Iterator[Pipeline]:
    with one_thread(), Pipeline.from_pretrained(model_dir, device="cpu", dtype="bfloat16") as loaded:
        yield loaded


def test_what_auto_stands_for() -> None:
    assert decoder_dtype("auto", "cpu") == torch.float32
    assert decoder_dtype("auto", "cuda:1") == torch.bfloat16
    assert decoder_dtype("bfloat16", "cpu") == torch.bfloat16
    assert (named_dtype("auto"), named_dtype("float32")) == ({}, {"dtype": "float32"})
    with pytest.raises(RequestError, match="auto, float32, bfloat16, got 'half'"):
        decoder_dtype("half", "cpu")


def test_bfloat16_is_faster_where_its_products_are() -> None:
    """Measured again, with larger matrices; where the two are alike either answer is right."""
    assert bfloat16_is_faster("cuda")
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(640, 640, dtype=dtype)
        matrix @ matrix
        starts = [time.perf_counter()]
        for _ in range(3):
            matrix @ matrix
            starts.append(time.perf_counter())
        seconds[dtype] = min(b - a for a, b in pairwise(starts))
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    if not 0.5 < ratio < 2:
        assert bfloat16_is_faster("cpu") == (ratio > 1)


def test_a_job_keeps_its_dtype(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "--model", str(model_dir), "--prompt", "a cat", "--out", str(tmp_path / "out")]
    assert main([*argv, "--dtype", "bfloat16"]) == 0
    (line,) = check_folder(tmp_path / "out", 1)
    assert line["parameters"]["dtype"] == "bfloat16"
    assert main(argv) == 2
    assert "dtype was 'bfloat16', now 'auto'" in capsys.readouterr().err


def test_a_server_computes_in_it(model_dir: Path, tmp_path: Path) -> None:
    folder = open_model(model_dir)
    settings = ServerSettings(
        model_dir=str(model_dir), image_dir=str(tmp_path), max_num_seqs=4, dtype="bfloat16"
    )
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with one_thread():
        backend = InProcessBackend(folder, settings)
        worker = backend.decoder_worker
        assert worker.call(lambda engine: engine.model.dtype).result(120) == torch.bfloat16
        encoded = asyncio.run(backend.encode(pixels))
        for each in (backend.token_worker, worker):
            each.close()
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer

    (exact,) = ImageTokenizer.from_pretrained(model_dir, device="cpu").encode(Image.fromarray(pixels))
    assert torch.equal(encoded.codes, exact.codes)


def test_both_stages_compute_in_it(pipeline: Pipeline) -> None:
    model_config = pipeline.token_generator._engine.vllm_config.model_config
    assert model_config.dtype == torch.bfloat16
    assert next(pipeline.decoder.tokenizer.parameters()).dtype == torch.bfloat16
    assert next(pipeline.decoder.autoencoder.parameters()).dtype == torch.bfloat16
    (made,) = pipeline.generate("a cat", seed=3)
    assert made.parameters["dtype"] == "bfloat16"


def test_pictures_differ_by_rounding_alone(pipeline: Pipeline, model_dir: Path) -> None:
    from v2flow_engine.decoding.load import load_decoder

    requests = [DecodeRequest(torch.arange(16), seed=seed, size=SIZE) for seed in range(3)]
    exact = load_decoder(open_model(model_dir)).decode(requests)
    for rounded, picture in zip(pipeline.decode(requests), exact, strict=True):
        difference = np.abs(rounded.astype(int) - picture.astype(int))
        assert 0 < difference.mean() < 4


def test_a_picture_has_the_codes_of_float32(pipeline: Pipeline, model_dir: Path) -> None:
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer

    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    pictures = [Image.fromarray(each) for each in noise]
    exact = ImageTokenizer.from_pretrained(model_dir, device="cpu").encode(pictures)
    for mine, other in zip(pipeline.image_tokenizer.encode(pictures), exact, strict=True):
        assert torch.equal(mine.codes, other.codes)
    mask = Image.fromarray(np.pad(np.full((20, 20), 255, np.uint8), 22))
    assert pipeline.edit(pictures[0], mask, "a cat", seed=1)[0].parameters["dtype"] == "bfloat16"
