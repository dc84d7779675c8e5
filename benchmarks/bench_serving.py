"""How does the endpoint behave under load? Closed-loop clients, random arrivals, and callers who leave; in one run.

    python benchmarks/bench_serving.py --single-process
    python benchmarks/bench_serving.py --chaos 1000 --decoder-replicas 2      callers leave, and a replica is killed

Starts `v2flow serve` on a free port of 127.0.0.1. Prints throughput as ratios to one request at a time, seconds to the
first partial picture and to the picture (p50, p95, p99), the share of a lone request that is not the two stages' own
work, how it compares with the same work without a server, the time until ready and the peak memory. The last line is
one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import machine, printed
from benchmarks.serving_chaos import SETTLED_AFTER, chaos
from benchmarks.serving_load import Load, closed_loop, open_loop, told
from benchmarks.serving_process import ServerProcess, serving
from benchmarks.token_work import example_prompts
from v2flow_engine.checkpoint import open_model
from v2flow_engine.errors import RequestError

ALONE = "1 client"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", metavar="NAME|DIR", default="v2flow-emoji")
    options.add_argument("--url", help="of a server that runs, in place of starting one; it must need no key")
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of both stages")
    options.add_argument("--single-process", action="store_true", help="without Ray")
    for each in ("token", "decoder", "ingress"):
        options.add_argument(f"--{each}-replicas", default="1", metavar="R", help="on Ray")
    options.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    options.add_argument("--requests", type=int, default=16, help="of each client, at least 64 in all")
    options.add_argument(
        "--loads",
        type=float,
        nargs="*",
        default=[0.5, 0.9],
        help="arrivals, as shares of the best throughput",
    )
    options.add_argument("--arrivals", type=int, default=128, help="requests of each load")
    options.add_argument("--partials", type=int, default=1, choices=range(4))
    options.add_argument("--direct", type=int, default=24, help="requests without a server; 0: none")
    options.add_argument(
        "--chaos",
        type=int,
        metavar="N",
        help="instead: N requests of 32 clients, of whom a tenth leave; on Ray, a decoder replica is killed",
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 if chaos lost a request, 2 for a mistake in what was given."""
    args = parser().parse_args(argv)
    report = printed("bench_serving", lambda: run(args), table)
    if report is None:
        return 2
    return 0 if report.get("chaos", {"lost": 0})["lost"] == 0 else 1


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure. Raises `V2FlowError`."""
    if min([*args.clients, args.requests, args.arrivals, args.chaos or 1]) < 1 or args.direct < 0:
        raise RequestError("--clients, --requests, --arrivals and --chaos must be positive")
    if args.chaos and args.url:
        raise RequestError("--chaos starts a server of its own: it does not go with --url")
    model = str(open_model(args.model).path)
    load = Load(example_prompts(), args.partials)
    report: dict[str, Any] = {
        "machine": machine("cpu"),
        "model": args.model,
        "dtype": args.dtype,
        "partials": args.partials,
    }
    if args.direct and not args.chaos:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            report["direct_seconds"] = pool.submit(
                direct, model, load.prompts, args.direct, args.dtype
            ).result()
    options = ["--model", model, "--dtype", args.dtype]
    if args.single_process:
        options.append("--single-process")
    else:
        options += ["--token-replicas", args.token_replicas, "--decoder-replicas", args.decoder_replicas]
        options += ["--ingress-replicas", args.ingress_replicas]
    started = contextlib.nullcontext(ServerProcess(args.url.rstrip("/"))) if args.url else serving(options)
    with started as server:
        report["mode"] = args.url or ("single process" if args.single_process else "Ray Serve")
        report["ready_seconds"] = server.ready
        asyncio.run(closed_loop(server.url, load, 4, 16))  # warms up
        if args.chaos:
            report["chaos"] = asyncio.run(chaos(server, load, args.chaos))
        else:
            measure(server, load, args, report)
        server.memory()
        report["peak_bytes"] = server.peak_bytes or None
    return report


def direct(model: str, prompts: Sequence[str], count: int, dtype: str) -> float:
    """Median seconds of one picture at a time through the same stages without a server, as a PNG file's bytes."""
    from v2flow_engine.generation.image_request import plan_requests
    from v2flow_engine.generation.parameters import GenerationParameters
    from v2flow_engine.generation.pipeline import Pipeline
    from v2flow_engine.offline.stages import make_images, make_tokens

    with Pipeline.from_pretrained(model, dtype=dtype) as pipeline:
        parameters = GenerationParameters.resolve(pipeline.folder)
        prompts = [prompts[i % len(prompts)] for i in range(count + 2)]
        seconds = []
        for request in plan_requests(prompts, parameters, seed=0):
            start = time.perf_counter()
            tokens = make_tokens(pipeline.folder, pipeline.token_generator, [request])
            make_images(pipeline.folder, pipeline.decoder, [request], tokens, "png", {"model": model})
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def measure(server: ServerProcess, load: Load, args: argparse.Namespace, report: dict[str, Any]) -> None:
    """Closed loops, a lone request without partial pictures for the overhead, then random arrivals."""
    report["closed"] = {}
    for clients in args.clients:
        count = max(64, args.requests * clients) if clients > 1 else args.requests * 2
        outcomes, seconds = asyncio.run(closed_loop(server.url, load, clients, count))
        report["closed"][f"{clients} client{'s' * (clients > 1)}"] = told(outcomes, seconds)
    if args.single_process or args.ingress_replicas == "1":  # of several, a scrape sees one's counters
        report["lone"] = lone(server, load, args.direct or args.requests)
    best = max(each["images_per_second"] for each in report["closed"].values())
    report["open"] = {}
    for share in args.loads:
        outcomes, seconds = asyncio.run(open_loop(server.url, load, share * best, args.arrivals))
        report["open"][f"{share:g} of the best"] = told(outcomes, seconds) | {"rate": share * best}


def lone(server: ServerProcess, load: Load, requests: int) -> dict[str, float]:
    """Where a request's time goes that has the server to itself and wants no partial pictures: seconds, mean values.

    request: as its client sees it. stages: that its picture was computed in either stage, as these count themselves.
    waiting: in front of their steps; asking: between the ingress and the stages; file: making the PNG. overhead: the
    share of the request that is not `stages`.
    """
    plain = Load(load.prompts, partials=0)
    before = _spent(server)
    outcomes, _ = asyncio.run(closed_loop(server.url, plain, 1, requests))
    spent = {name: (after - before[name]) / requests for name, after in _spent(server).items()}
    request = statistics.mean([each.done for each in outcomes if each.done is not None])
    return {
        "request": request,
        "stages": spent["compute"],
        "waiting": spent["queue"],
        "asking": spent["ask"] - spent["queue"] - spent["compute"],
        "file": spent["file"],
        "overhead": 1 - spent["compute"] / request,
    }


def _spent(server: ServerProcess) -> dict[str, float]:
    """Seconds of all pictures so far, by what they were spent for."""
    names = {
        "compute": "v2flow_stage_compute_seconds_sum",
        "queue": "v2flow_stage_queue_seconds_sum",
        "ask": "v2flow_ask_seconds_sum",
        "file": "v2flow_file_seconds_sum",
    }
    return {name: sum(server.metric(metric).values()) for name, metric in names.items()}


def table(report: dict[str, Any]) -> str:
    """The report for a reader."""
    about = report["machine"]
    lines = [
        f"{report['model']}, {report['dtype']}, {report['mode']}; {about['device']}, {about['threads']} threads, torch "
        f"{about['torch']}",
        "",
        f"{'':<22}{'images/s':>10}{'ratio':>8}{'answered':>12}"
        f"{'first partial p50 p95 p99':>28}{'image p50 p95 p99':>24}",
    ]
    if report["ready_seconds"] is not None:
        lines[1] = (
            f"ready after {report['ready_seconds']:.0f} s, peak {(report['peak_bytes'] or 0) / 2**30:.2f} GiB"
        )
    rows = report.get("closed", {}) | report.get("open", {})
    if "chaos" in report:
        rows = {"chaos": report["chaos"]}
    base = report.get("closed", {}).get(ALONE, {}).get("images_per_second")
    for name, row in rows.items():
        ratio = f"{row['images_per_second'] / base:.2f}x" if base else ""
        answered = f"{row['answered']}/{row['requests']}"
        lines.append(
            f"{name:<22}{row['images_per_second']:>10.2f}{ratio:>8}{answered:>12}"
            f"{_three(row['first_partial']):>28}{_three(row['image']):>24}"
        )
    if "lone" in report:
        each = {name: f"{1000 * seconds:.0f} ms" for name, seconds in report["lone"].items()}
        lines.append(
            f"a lone request takes {each['request']}: {each['stages']} in the stages, {each['waiting']} before their "
            f"steps, {each['asking']} to ask them, {each['file']} for the file; "
            f"overhead {report['lone']['overhead']:.1%}"
        )
    if "direct_seconds" in report and "lone" in report:
        direct_ratio = report["lone"]["request"] / report["direct_seconds"]
        lines.append(
            f"{direct_ratio:.2f}x of the {1000 * report['direct_seconds']:.0f} ms that it takes without a server"
        )
    if "chaos" in report:
        each = report["chaos"]
        lines.append(
            f"{each['left']} callers left, {each['lost']} others got no picture, replica killed: "
            f"{each['replica_killed']}, left behind in the stages: {each['left_behind']}, steps for nobody: "
            f"{each['steps_for_nobody']:g}"
        )
        if each["memory_bytes"]:
            told_memory = (f"{when} {size / 2**30:.2f}" for when, size in each["memory_bytes"].items())
            lines.append(f"memory after {SETTLED_AFTER:.0%} of the requests, GiB: {', '.join(told_memory)}")
        lines += each["errors"]
    return "\n".join(lines)


def _three(values: dict[str, float] | None) -> str:
    return "" if values is None else " ".join(f"{value:.2f}" for value in values.values())


if __name__ == "__main__":
    sys.exit(main())
