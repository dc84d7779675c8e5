"""The decoder benchmark on a tiny model: the table, the document on the last line, and what it counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bench_decoder import main
from benchmarks.decoder_arrivals import poisson_arrivals
from tests.tiny_model import build_tiny_model

DECODERS = ["plain float32", "engine float32", "engine bfloat16"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def test_it_prints_a_table_and_one_document(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", str(model), "--device", "cpu", "--batches", "1", "2", "--repeats", "1"]
    assert main([*given, "--arrivals", "4", "--guidance", "2"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert [name for name in DECODERS if any(line.startswith(name) for line in table)] == DECODERS
    for name in DECODERS:
        assert set(report["images_per_second"][name]) == {"1", "2"}
        assert report["matmul"]["share"][name] > 0
    policies = report["arrivals"]["policies"]
    assert list(policies) == [
        "plain float32, static",
        "engine float32, static",
        "engine float32, continuous",
        "engine bfloat16, static",
        "engine bfloat16, continuous",
    ]
    assert all(served["p50_s"] <= served["p95_s"] for served in policies.values())


def test_the_engine_does_less_and_the_autoencoder_the_same(model: Path, capsys) -> None:
    given = ["--model", str(model), "--device", "cpu", "--batches", "1", "--repeats", "1", "--arrivals", "0"]
    assert main([*given, "--guidance", "2"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    plain, engine = (report["flops_per_image"][name] for name in DECODERS[:2])
    assert engine["autoencoder"] == plain["autoencoder"]
    assert engine["masked transformer"] < plain["masked transformer"]
    assert engine["velocity net"] < plain["velocity net"]
    assert "arrivals" not in report


def test_a_preset_goes_to_latents(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--preset", "small", "--device", "cpu", "--batches", "1", "--repeats", "1", "--rounds", "1"]
    assert main([*given, "--flow-steps", "1", "--guidance", "1", "--decoders", *DECODERS[:2]]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["to"] == "latents" and report["model"] == "small" and report["rounds"] == 1
    assert report["largest_difference"]["engine float32"] < 1e-4
    assert report["flops_per_image"]["engine float32"]["autoencoder"] == 0


def test_mistakes_are_told_in_one_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--batches", "0"], "must be positive"),
        (["--cuda-graphs"], "cuda_graphs needs a CUDA device"),
    ):
        assert main(["--model", str(model), "--device", "cpu", *options]) == 2
        assert message in capsys.readouterr().err


def test_arrivals_come_at_the_rate_that_was_asked_for() -> None:
    moments = poisson_arrivals(4000, rate=8.0, seed=0)
    assert moments[0] == 0 and moments == sorted(moments)
    assert moments[-1] == pytest.approx(4000 / 8.0, rel=0.1)
    assert poisson_arrivals(10, 8.0, seed=0) == poisson_arrivals(10, 8.0, seed=0)
