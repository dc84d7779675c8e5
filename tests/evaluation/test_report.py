"""The last line is strict JSON, tables line up, the machine is named."""

import json
import math
from pathlib import Path

import torch

from v2flow_engine.evaluation.report import cpu_model, format_table, last_line, machine


def test_last_line_is_one_line_of_strict_json() -> None:
    line = last_line({"a": math.nan, "b": [math.inf, 0.5], "c": {"d\n": None, 3: "x"}})
    assert "\n" not in line
    assert json.loads(line, parse_constant=lambda name: 1 / 0) == {
        "a": None,
        "b": [None, 0.5],
        "c": {"d\n": None, "3": "x"},
    }


def test_table_lines_up() -> None:
    assert format_table(
        ["name", "n"], [["short", 1], ["much longer", 0.25], ["none", None]]
    ).splitlines() == [
        "name             n",
        "-----------  -----",
        "short            1",
        "much longer  0.250",
        "none             -",
    ]


def test_machine_names_what_matters() -> None:
    found = machine("cpu")
    assert found["cpu"]
    assert found["cores"] >= 1
    assert (found["device"], found["torch"]) == ("cpu", torch.__version__)


def test_cpu_model_comes_from_the_system(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some Chip 9000\n")
    assert cpu_model(cpuinfo) == "Some Chip 9000"
