"""Counts of the LLM against torch's counter, the arithmetic of a plan, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.decoder_counts import EXTRA
from tests.shaped_llm import random_llm
from v2flow_engine.cli import main
from v2flow_engine.errors import DataError, ModelFolderError, RequestError
from v2flow_engine.planning.hardware import GPUS, Hardware, Rates, find_device, to_json
from v2flow_engine.planning.llm_cost import LlmShape
from v2flow_engine.planning.plan import Costs, for_deadline, for_devices
from v2flow_engine.planning.presets import LLMS
from v2flow_engine.planning.request import parse_duration


@pytest.mark.parametrize("kind", ["llama", "phi3"])
def test_the_llm_is_counted_as_torch_counts_it(kind: str) -> None:
    model = random_llm(300, model_type=kind, num_key_value_heads=2)
    config = model.config.to_dict() | {"vocab_size": 300 - 64}
    shape = LlmShape.from_config(config, codebook_size=64)
    prompt = torch.arange(12)[None]
    with torch.no_grad():
        cache = model(prompt, use_cache=True).past_key_values
        counter = FlopCounterMode(display=False, custom_mapping=EXTRA)
        with counter:
            model(prompt[:, :1], past_key_values=cache, use_cache=True)
    rest = 2 * shape.hidden * (300 - 64)  # the head's rows that are no visual tokens
    assert shape.step(13) == counter.get_total_flops() - rest
    assert shape.parameters == sum(p.numel() for p in model.parameters() if p.ndim > 1)
    keys = cache.layers[0].keys
    assert shape.kv_numbers == 2 * shape.layers * keys[0, :, 0].numel()


def test_the_named_llms_have_the_sizes_that_their_names_say() -> None:
    billions = {name: LlmShape.from_config(config).parameters / 1e9 for name, config in LLMS.items()}
    assert billions["llama-2-7b"] == pytest.approx(6.74, abs=0.01)
    assert billions["llama-3-8b"] == pytest.approx(8.03, abs=0.01)
    assert billions["phi-3-mini"] == pytest.approx(3.82, abs=0.01)
    assert LlmShape.from_config(LLMS["llama-2-7b"]).kv_numbers * 2 == 524288  # bytes in bfloat16


def test_a_deadline_takes_the_fewest_devices() -> None:
    costs = Costs(token=0.4, decoder=0.1, shared_token=0.5, shared_decoder=0.1, startup=100.0)
    plan = for_deadline(10_000, 1100.0, costs)  # 10 images/s
    assert (plan.token_devices, plan.decoder_devices, plan.shared) == (4, 1, False)
    assert plan.seconds == pytest.approx(1100.0) and plan.ratio == pytest.approx(4.0)
    assert plan.device_hours == pytest.approx(5 * 1100 / 3600)
    alone = for_deadline(1000, 1100.0, costs)
    assert alone.shared and alone.devices == 1 and alone.seconds == pytest.approx(700.0)
    with pytest.raises(RequestError, match="not longer than the start-up"):
        for_deadline(10, 100.0, costs)


def test_given_devices_are_split_so_that_neither_stage_waits_long() -> None:
    costs = Costs(0.3, 0.1, None, None, 0.0)
    plan = for_devices(100, 8, costs)
    assert (plan.token_devices, plan.decoder_devices) == (6, 2)
    assert plan.token_utilisation == plan.decoder_utilisation == pytest.approx(1.0)
    with pytest.raises(RequestError, match="does not hold both"):
        for_devices(100, 1, costs)
    machines = Costs(0.3, 0.1, 0.3, 0.1, 10.0, whole_machine=True)
    assert for_devices(100, 2, machines).seconds == pytest.approx(10 + 100 * 0.4 / 2)


def test_the_command_prints_every_assumption_and_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["plan", "--images", "1000000", "--deadline", "2d", "--llm", "llama-2-7b", "--gpu", "h100"]
    assert main(given) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert report["plan"]["seconds"] <= 2 * 86400
    assumed = [line for line in lines if "assumed, not measured" in line]
    assert len(assumed) == 8
    assert main([*given, "--llm-bandwidth-share", "1.0"]) == 0
    faster = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert faster["token_stage"]["seconds"] < report["token_stage"]["seconds"]
    assert main([*given, "--guidance", "1"]) == 0
    unguided = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert unguided["token_stage"]["kv_bytes"] == report["token_stage"]["kv_bytes"] / 2


def test_a_calibration_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hardware = Hardware("here", 1e11, 1e10, 16e9, 4, "measured", whole_machine=True)
    rates = Rates(0.2, 0.2, 0.01, 0.3, 0.2, 0.4, 0.1, 30.0)
    (tmp_path / "calibration.json").write_text(json.dumps(to_json(hardware, rates, {})))
    assert find_device(str(tmp_path)).rates == rates
    model = ["--llm", "v2flow-emoji", "--decoder", "v2flow-emoji"]
    assert main(["plan", "--images", "300", "--gpus", "1", "--gpu", str(tmp_path), *model]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["plan"]["shared"] and report["plan"]["seconds"] > 30
    assert report["size"] == "128x128"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--images is needed"),
        (["--images", "5"], "--deadline or --gpus is needed"),
        (["--images", "5", "--deadline", "soon"], "--deadline must look like"),
        (["--images", "5", "--gpus", "1", "--gpu", "b9"], "'b9' is neither h100"),
        (["--images", "5", "--gpus", "1", "--llm", "gpt"], "'gpt' is not one of llama-2-7b"),
        (["--images", "5", "--gpus", "1", "--size", "100x100"], "whole multiples of 32"),
        (["--images", "5", "--gpus", "2", "--velocity-share", "0"], "velocity must be positive"),
        (["--calibrate", "x.json"], "--calibrate runs a model"),
    ],
)
def test_mistakes_are_told_in_one_line(options: list[str], message: str, capsys) -> None:
    assert main(["plan", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_is_no_calibration_or_llm_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="no calibration"):
        find_device(str(path))
    with pytest.raises(ModelFolderError, match="'gpt2' can't be planned with"):
        LlmShape.from_config({"model_type": "gpt2"})
    assert parse_duration("1d12h") == 129600 and set(GPUS) == {"h100", "a100", "a800", "l40s"}
