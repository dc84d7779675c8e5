"""How does the endpoint behave under load? Closed-loop clients, random arrivals, and callers who leave; in one run.

    python benchmarks/bench_serving.py --single-process
    python benchmarks/bench_serving.py --chaos 1000 --decoder-replicas 2      callers leave, and a replica is killed

Starts `v2flow serve` on a free port of 127.0.0.1. Prints throughput as ratios to one request at a time, seconds to the
first partial picture and to the picture (p50, p95, p99), the share of a lone request that is not the two stages' own
work, the time until ready and the peak memory. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
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
from benchmarks.serving_load import Load, Outcome, closed_loop, open_loop
from benchmarks.serving_process import ServerProcess, serving
from benchmarks.token_work import example_prompts
from v2flow_engine.checkpoint import open_model
from v2flow_engine.errors import RequestError

ALONE = "1 client"
LEAVING = 0.1
QUIET_SECONDS = 60.0
SETTLED_AFTER = 0.2  # of a chaos run: from then on memory should not grow


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", metavar="NAME|DIR", default="v2flow-emoji")
    options.add_argument("--url", help="of a server that runs, in place of starting one; it must need no key")
    options.add_argument("--single-process", action="store_true", help="without Ray")
    for stage in ("token", "decoder"):
        options.add_argument(f"--{stage}-replicas", default="1", metavar="R", help="on Ray")
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
    report: dict[str, Any] = {"machine": machine("cpu"), "model": args.model, "partials": args.partials}
    if args.direct and not args.chaos:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            report["direct_seconds"] = pool.submit(direct, model, load.prompts, args.direct).result()
    options = ["--model", model]
    if args.single_process:
        options.append("--single-process")
    else:
        options += ["--token-replicas", args.token_replicas, "--decoder-replicas", args.decoder_replicas]
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


def direct(model: str, prompts: Sequence[str], count: int) -> float:
    """Median seconds of one picture at a time through the same stages without a server, as a PNG file's bytes."""
    from v2flow_engine.generation.image_request import plan_requests
    from v2flow_engine.generation.parameters import GenerationParameters
    from v2flow_engine.generation.pipeline import Pipeline
    from v2flow_engine.offline.stages import make_images, make_tokens

    with Pipeline.from_pretrained(model) as pipeline:
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
    if "direct_seconds" in report:
        plain = Load(load.prompts, partials=0)
        outcomes, _ = asyncio.run(closed_loop(server.url, plain, 1, args.direct))
        lone = statistics.median([each.done for each in outcomes if each.done is not None])
        report["lone_seconds"] = lone
        report["overhead"] = 1 - report["direct_seconds"] / lone
    best = max(each["images_per_second"] for each in report["closed"].values())
    report["open"] = {}
    for share in args.loads:
        outcomes, seconds = asyncio.run(open_loop(server.url, load, share * best, args.arrivals))
        report["open"][f"{share:g} of the best"] = told(outcomes, seconds) | {"rate": share * best}


async def chaos(server: ServerProcess, load: Load, requests: int, clients: int = 32) -> dict[str, Any]:
    """Callers leave, and in the middle a decoder replica is killed: who else is not answered, and what stays behind."""
    load = Load(load.prompts, load.partials, LEAVING, patience=2.0, seed=load.seed)
    killed = None
    memory: list[int] = []

    async def watch() -> None:
        nonlocal killed
        while True:
            finished = await asyncio.to_thread(finished_pictures, server)
            if killed is None and finished > requests / 2 and (pids := server.replicas("Decoder")):
                killed = random.Random(0).choice(pids)
                os.kill(killed, signal.SIGKILL)
            if finished > SETTLED_AFTER * requests:
                memory.append(await asyncio.to_thread(server.memory))
            await asyncio.sleep(1.0)

    watcher = asyncio.create_task(watch())
    outcomes, seconds = await closed_loop(server.url, load, clients, requests)
    watcher.cancel()
    left = sum(each.status == 0 for each in outcomes)
    lost = [each for each in outcomes if not each.answered and each.status != 0]
    behind = await asyncio.to_thread(left_behind, server)
    return told(outcomes, seconds) | {
        "requests": requests,
        "left": left,
        "lost": len(lost),
        "errors": [f"{each.status} {each.error}" for each in lost[:5]],
        "replica_killed": killed is not None,
        "left_behind": behind,
        "memory_bytes": {"first": memory[0], "last": memory[-1]} if memory else None,
    }


def finished_pictures(server: ServerProcess) -> float:
    """Of the decoder, as far as it answers."""
    try:
        return max(server.metric("v2flow_requests_total").values(), default=0.0)
    except OSError:
        return 0.0


def left_behind(server: ServerProcess) -> float:
    """Pictures in either stage that nobody waits for, once there was time to notice."""
    end = time.monotonic() + QUIET_SECONDS
    while True:
        found = sum(server.metric("v2flow_stage_in_flight").values())
        if found == 0 or time.monotonic() > end:
            return found
        time.sleep(0.5)


def told(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Throughput, goodput and percentiles."""
    answered = [each for each in outcomes if each.answered]
    return {
        "images_per_second": len(answered) / seconds,
        "requests": len(outcomes),
        "answered": len(answered),
        "first_partial": percentiles([each.first for each in answered if each.first is not None]),
        "image": percentiles([each.done for each in answered if each.done is not None]),
    }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95, p99; None for nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        f"p{p}": ordered[min(len(ordered) - 1, round(p / 100 * (len(ordered) - 1)))] for p in (50, 95, 99)
    }


def table(report: dict[str, Any]) -> str:
    """The report for a reader."""
    about = report["machine"]
    lines = [
        f"{report['model']}, {report['mode']}; {about['device']}, {about['threads']} threads, torch {about['torch']}",
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
    if "overhead" in report:
        lines.append(
            f"a lone request takes {1000 * report['lone_seconds']:.0f} ms, its stages without a server "
            f"{1000 * report['direct_seconds']:.0f} ms: overhead {report['overhead']:.1%}"
        )
    if "chaos" in report:
        each = report["chaos"]
        lines.append(
            f"{each['left']} callers left, {each['lost']} others got no picture, replica killed: "
            f"{each['replica_killed']}, left behind in the engines: {each['left_behind']:g}"
        )
        lines += each["errors"]
    return "\n".join(lines)


def _three(values: dict[str, float] | None) -> str:
    return "" if values is None else " ".join(f"{value:.2f}" for value in values.values())


if __name__ == "__main__":
    sys.exit(main())
