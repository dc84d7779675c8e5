"""`v2flow parity FIXTURE.json`: the table of differences against a golden fixture, exit status 1 above tolerance."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from v2flow_engine.errors import RequestError
from v2flow_engine.evaluation.report import format_table, last_line

HELP = (
    "Compare every stage of the visual tokenizer with what the reference computed: NAME.json, with "
    "NAME.weights.safetensors (or NAME.weights-1.safetensors, -2, ...) and NAME.tensors.safetensors beside it. The "
    "relative error of a tensor is max |a - b| / max |b|, b the fixture's; codes must be equal. Exit status 1 if a "
    "tensor is above its tolerance. The last line is a JSON document."
)
HEADER = ["tensor", "shape", "max abs error", "max rel error", ""]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("fixture", type=Path, metavar="FIXTURE.json")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, metavar="E", help="relative, of one stage (%(default)g)"
    )
    parser.add_argument(
        "--sampling-tolerance",
        type=float,
        default=1e-3,
        metavar="E",
        help="relative, of latents_out, the whole sampling (%(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Compare and report; 1 if anything is above its tolerance."""
    from v2flow_engine.evaluation.parity import run_parity
    from v2flow_engine.evaluation.parity_fixture import load_fixture

    for name in ("tolerance", "sampling_tolerance"):
        if not 0 <= getattr(args, name) < math.inf:
            raise RequestError(f"--{name.replace('_', '-')} must be 0 or more, got {getattr(args, name)}")
    differences = run_parity(load_fixture(args.fixture), args.tolerance, args.sampling_tolerance)
    ok = all(each.ok for each in differences)
    rows = [
        [
            each.tensor,
            "x".join(map(str, each.shape)),
            f"{each.absolute:.2e}",
            f"{each.relative:.2e}",
            "ok" if each.ok else "FAIL",
        ]
        for each in differences
    ]
    print(format_table(HEADER, rows))
    print()
    document = {
        "command": "parity",
        "fixture": str(args.fixture),
        "ok": ok,
        "tolerance": args.tolerance,
        "sampling_tolerance": args.sampling_tolerance,
        "tensors": {
            each.tensor: {
                "shape": each.shape,
                "max_abs_error": each.absolute,
                "max_rel_error": each.relative,
                "ok": each.ok,
            }
            for each in differences
        },
    }
    print(last_line(document), flush=True)
    return 0 if ok else 1
