"""Does memory grow with the input? `v2flow generate` on a file of many rows, watched from outside.

    python benchmarks/bench_streaming.py --rows 1000000
    python benchmarks/bench_streaming.py --rows 20000 --model v2flow-emoji -- --rounds 1 --flow-steps 1

Without --model the tests' tiny one makes pictures of 32 x 32 from 4 tokens: vLLM, the decoder engine, Ray Data, shards
and manifest are those of every job. Prints pictures/s and the memory of each kind of process: the most in the second
tenth of the rows, the most afterwards, and their ratio, which is to stay below 1.1. Then the command runs again and
finds nothing to do. The last line is one JSON document. What is after `--` goes to `v2flow generate`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import machine, printed
from benchmarks.long_input import WRITERS
from benchmarks.process_memory import ProcessMemory
from v2flow_engine.errors import RequestError
from v2flow_engine.offline.interrupts import listening

ROOT = Path(__file__).resolve().parents[1]
TINY = ("--size", "32x32", "--rounds", "1", "--flow-steps", "1", "--guidance", "1")
GROWTH = 1.1
_PROGRESS = re.compile(r"(\d+)/(\d+) images")


@dataclass(frozen=True)
class Moment:
    """seconds since the start; pictures so far; bytes by kind ("resident", "own") and role."""

    seconds: float
    pictures: int
    memory: dict[str, dict[str, int]]


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--model", metavar="NAME|DIR", help="default: the tests' tiny one")
    options.add_argument("--input-format", choices=WRITERS, default="jsonl")
    options.add_argument("--note-bytes", type=int, default=100, help="of a column that is passed through")
    options.add_argument("--format", default="webdataset", help="of the output")
    options.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds between measurements")
    options.add_argument("--dir", type=Path, help="where input and output go; default: a temporary folder")
    options.add_argument("arguments", nargs="*", help="of v2flow generate, after --")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 if memory grew or pictures are missing, 2 for a mistake in what was given."""
    args = parser().parse_args(argv)
    with listening(), tempfile.TemporaryDirectory(dir=args.dir) as directory:
        report = printed("bench_streaming", lambda: run(args, Path(directory)), table)
    if report is None:
        return 2
    return 0 if report["flat"] and report["made"] == args.rows else 1


def run(args: argparse.Namespace, directory: Path) -> dict:
    """Write the input, make the pictures, check them again. Raises `RequestError`."""
    if args.rows < 100:
        raise RequestError(f"--rows must be 100 at least, got {args.rows}")
    rows = directory / f"rows.{args.input_format}"
    WRITERS[args.input_format](rows, args.rows, args.note_bytes)
    arguments = [
        "--model",
        args.model or str(tiny_model(directory / "model")),
        "--out",
        str(directory / "out"),
    ]
    arguments += ["--prompts", str(rows), "--input-format", args.input_format, "--format", args.format]
    arguments += [*(() if args.model else TINY), *args.arguments]
    status, moments = watch(arguments, directory / "log", args.every)
    if status:
        sys.stderr.write((directory / "log").read_text()[-2000:])
    metrics = json.loads((directory / "out" / "metrics.json").read_text())
    start = time.perf_counter()
    _, again = watch(arguments, directory / "log", 0.2)
    shown = {
        name: metrics[name]
        for name in (
            "made",
            "failed",
            "seconds",
            "seconds_to_first_picture",
            "images_per_second_after_loading",
        )
    }
    memory = {kind: growth(moments, kind, args.rows) for kind in ("resident", "own")}
    return {
        "machine": machine("cpu"),
        "model": args.model or "tiny",
        "rows": args.rows,
        "input_bytes": rows.stat().st_size,
        "input_format": args.input_format,
        "format": args.format,
        "status": status,
        **shown,
        "actors": metrics["actors"],
        "seconds_before_first_line": moments[0].seconds if moments else None,
        "memory": memory,
        "flat": all(values["ratio"] <= GROWTH for values in memory["resident"].values()),
        "second_check": {
            "seconds": round(time.perf_counter() - start, 1),
            "resident_driver": max((m.memory["resident"]["driver"] for m in again), default=0),
        },
        "moments": [(round(m.seconds, 1), m.pictures, m.memory["resident"]) for m in thinned(moments)],
    }


def tiny_model(directory: Path) -> Path:
    """The tests' model, with the smallest pictures that it can have."""
    from tests.tiny_model import build_tiny_model

    return build_tiny_model(directory, grids={"32x32": [2, 2]})


def watch(arguments: Sequence[str], log: Path, every: float) -> tuple[int, list[Moment]]:
    """Run `v2flow generate` in a process of its own; its exit status, and its memory while it ran."""
    command = [sys.executable, "-m", "v2flow_engine.cli", "generate", *arguments]
    moments: list[Moment] = []
    start = time.perf_counter()
    with log.open("w") as stderr, subprocess.Popen(command, stderr=stderr, cwd=ROOT) as process:
        try:
            memory_of = ProcessMemory(psutil.Process(process.pid))
            while process.poll() is None:
                pictures, memory = progress(log), memory_of.by_role()
                if "driver" in memory["resident"]:
                    moments.append(Moment(time.perf_counter() - start, pictures, memory))
                time.sleep(every)
        except BaseException:
            process.terminate()  # it ends what it has started, and keeps what is finished
            raise
        return process.wait(), moments


def progress(log: Path) -> int:
    """Pictures that the command has told of."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 4000))
        found = _PROGRESS.findall(file.read().decode(errors="replace"))
    return int(found[-1][0]) if found else 0


def growth(moments: Sequence[Moment], kind: str, rows: int) -> dict[str, dict[str, float]]:
    """For each role, and for all together: the most while the second tenth of the rows was made, and afterwards."""
    early = [m.memory[kind] for m in moments if rows / 10 <= m.pictures < rows / 5]
    late = [m.memory[kind] for m in moments if m.pictures >= rows / 5]
    found = {}
    for role in ["all", *sorted({role for each in (*early, *late) for role in each})]:
        before, after = (
            max((sum(m.values()) if role == "all" else m.get(role, 0) for m in some), default=0)
            for some in (early, late)
        )
        found[role] = {"early": before, "late": after, "ratio": round(after / before, 3) if before else 0.0}
    return found


def thinned(moments: Sequence[Moment], most: int = 60) -> Sequence[Moment]:
    """Evenly spaced ones."""
    return moments[:: max(1, -(-len(moments) // most))]


def table(report: dict) -> str:
    """For people."""
    rate = report["images_per_second_after_loading"]
    check = report["second_check"]
    lines = [
        f"{report['made']} of {report['rows']} pictures in {report['seconds']:.0f} s, {rate} pictures/s after loading",
        f"{'process':<18}{'second tenth':>14}{'later':>10}{'ratio':>8}{'own, ratio':>12}",
    ]
    for role, values in report["memory"]["resident"].items():
        own = report["memory"]["own"].get(role, {"ratio": 0.0})["ratio"]
        early, late = (f"{values[when] / 1e6:.0f} MB" for when in ("early", "late"))
        lines.append(f"{role:<18}{early:>14}{late:>10}{values['ratio']:>8.3f}{own:>12.3f}")
    lines.append(f"second check: {check['seconds']} s, {check['resident_driver'] / 1e6:.0f} MB")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
