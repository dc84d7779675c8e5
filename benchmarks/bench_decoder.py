"""How fast is the decoder? The plain sampler, the engine in float32 and in bfloat16, side by side in one run.

    python benchmarks/bench_decoder.py --model v2flow-emoji

Prints images/s by batch, as ratios to the plain sampler (the decoders take turns; medians), operations by part, the
share of the machine's own rate of matrix products, and a run of random arrivals with mixed grids. The last line is
one JSON document. Tokens and files are not in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.decoder_arrivals import continuous, poisson_arrivals, serve, static
from benchmarks.decoder_counts import count_flops, matmul_rate, synchronize
from benchmarks.decoder_work import load_decoders, make_requests, mixed_requests
from v2flow_engine.checkpoint import open_tokenizer
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.settings import ATTENTION, EngineSettings
from v2flow_engine.decoding.limits import Limits
from v2flow_engine.errors import RequestError, V2FlowError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", metavar="NAME|DIR", default="v2flow-emoji")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64], metavar="B")
    options.add_argument("--repeats", type=int, default=5, help="runs of each, of which the median counts")
    options.add_argument("--rounds", type=int, help="default: the model's")
    options.add_argument("--flow-steps", type=int, help="default: the model's")
    options.add_argument("--guidance", type=float, help="the decoder's own; default: the model's")
    options.add_argument(
        "--arrivals", type=int, default=64, help="images of the run with random arrivals; 0: none"
    )
    options.add_argument(
        "--load", type=float, default=0.8, help="their rate, as a share of the plain sampler's best"
    )
    options.add_argument("--attention", choices=ATTENTION, default="auto")
    options.add_argument("--max-tokens", type=int, help="the engine's budget")
    options.add_argument("--compile", action="store_true")
    options.add_argument("--cuda-graphs", action="store_true")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 2 for a mistake in what was given."""
    args = parser().parse_args(argv)
    try:
        report = run(args)
    except V2FlowError as error:
        print(f"bench_decoder: error: {error}", file=sys.stderr)
        return 2
    print(table(report))
    print(json.dumps(report))
    return 0


def run(args: argparse.Namespace) -> dict:
    """Measure everything. Raises `V2FlowError` for a model, size or setting that cannot be."""
    if min(args.batches) < 1 or args.repeats < 1 or args.load <= 0:
        raise RequestError("--batches, --repeats and --load must be positive")
    folder = open_tokenizer(args.model)
    settings = EngineSettings(
        attention=args.attention,
        max_tokens=args.max_tokens,
        compile=args.compile,
        cuda_graphs=args.cuda_graphs,
    )
    decoders = load_decoders(folder, args.device, settings)
    limits, defaults = next(iter(decoders.values())).limits, folder.defaults
    work = {
        "rounds": args.rounds or defaults.rounds,
        "flow_steps": args.flow_steps or defaults.flow_steps,
        "guidance": defaults.decoder_guidance if args.guidance is None else args.guidance,
    }
    size = folder.config.default_size
    speed = throughput(decoders, limits, size, args, work)
    report = {
        "machine": machine(args.device),
        "model": str(args.model),
        "size": size,
        **work,
        "settings": dataclasses.asdict(settings),
        "images_per_second": speed,
        "flops_per_image": {
            name: count_flops(decoder, make_requests(limits, size, 4, **work))
            for name, decoder in decoders.items()
        },
    }
    report["matmul"] = share_of_matmul(report, args.device)
    if args.arrivals:
        report["arrivals"] = arrivals(decoders, limits, size, args, work, speed)
    report["peak_memory_bytes"] = peak_memory(args.device)
    return report


def throughput(
    decoders: dict[str, Decoder | DecoderEngine],
    limits: Limits,
    size: str,
    args: argparse.Namespace,
    work: dict,
) -> dict[str, dict[str, float]]:
    """images/s of each decoder at each batch: the decoders take turns, so that a busy machine slows all of them."""
    speed: dict[str, dict[str, float]] = {name: {} for name in decoders}
    for batch in args.batches:
        requests = make_requests(limits, size, batch, **work)
        seconds: dict[str, list[float]] = {name: [] for name in decoders}
        for repeat in range(args.repeats + 1):
            for name, decoder in decoders.items():
                synchronize(args.device)
                start = time.perf_counter()
                decoder.decode(requests)
                if repeat:  # the first turn warms up
                    seconds[name].append(time.perf_counter() - start)
        for name, values in seconds.items():
            speed[name][str(batch)] = batch / statistics.median(values)
    return speed


def share_of_matmul(report: dict, device: str) -> dict[str, dict[str, float]]:
    """For each dtype the measured rate; for each decoder the share of it that its best batch reaches."""
    rates = {name: matmul_rate(device, dtype) for name, dtype in DTYPES.items()}
    shares = {
        name: max(speeds.values()) * report["flops_per_image"][name]["all"] / rates[name.split()[1]]
        for name, speeds in report["images_per_second"].items()
    }
    return {"flops_per_second": rates, "share": shares}


def arrivals(
    decoders: dict[str, Decoder | DecoderEngine],
    limits: Limits,
    size: str,
    args: argparse.Namespace,
    work: dict,
    speed: dict[str, dict[str, float]],
) -> dict:
    """The same images at the same times under each policy."""
    rate = args.load * max(speed["plain float32"].values())
    requests = mixed_requests(limits, make_requests(limits, size, args.arrivals, **work, seed=1), seed=1)
    moments = poisson_arrivals(len(requests), rate, seed=1)
    plain, engine = decoders["plain float32"], decoders["engine float32"]
    largest = max(args.batches)
    policies = {
        "plain, static": static(plain.decode, largest),
        "engine, static": static(engine.decode, largest),
        "engine, continuous": continuous(engine),
    }
    served = {name: dataclasses.asdict(serve(server, requests, moments)) for name, server in policies.items()}
    return {"images": len(requests), "rate": rate, "policies": served}


def machine(device: str) -> dict[str, str | int]:
    """What it ran on."""
    cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def peak_memory(device: str) -> int:
    """Bytes: of the CUDA allocator, or of the whole process. All decoders of the run are in it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(report: dict) -> str:
    """The report for a reader."""
    speeds = report["images_per_second"]
    plain, batches = speeds["plain float32"], list(speeds["plain float32"])
    lines = [
        f"{report['model']}, {report['size']}, {report['rounds']} rounds of {report['flow_steps']} steps, "
        f"guidance {report['guidance']:g}; {report['machine']['device']}, torch {report['machine']['torch']}",
        "",
        f"{'images/s (ratio to plain)':<26}" + "".join(f"{'batch ' + batch:>18}" for batch in batches),
    ]
    for name, values in speeds.items():
        cells = (f"{values[b]:.2f} ({values[b] / plain[b]:.2f}x)" for b in batches)
        lines.append(f"{name:<26}" + "".join(f"{cell:>18}" for cell in cells))
    parts = list(next(iter(report["flops_per_image"].values())))
    lines += ["", f"{'GFLOP per image':<26}" + "".join(f"{part:>20}" for part in parts)]
    for name, values in report["flops_per_image"].items():
        lines.append(f"{name:<26}" + "".join(f"{values[part] / 1e9:>20.3f}" for part in parts))
    rates = report["matmul"]["flops_per_second"]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in report["matmul"]["share"].items())
    lines += ["", "matrix products: " + ", ".join(f"{n} {r / 1e9:.0f} GFLOP/s" for n, r in rates.items())]
    lines += [f"share of that rate: {shares}", f"peak memory: {report['peak_memory_bytes'] / 2**20:.0f} MiB"]
    if "arrivals" in report:
        lines += ["", f"{report['arrivals']['images']} arrivals, {report['arrivals']['rate']:.2f} a second"]
        for name, served in report["arrivals"]["policies"].items():
            lines.append(
                f"{name:<26}{served['images_per_second']:>8.2f} images/s, p50 {served['p50_s']:.3f} s, "
                f"p95 {served['p95_s']:.3f} s"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
