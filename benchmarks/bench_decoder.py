"""How fast is the decoder? The reference, the plain sampler, and the engine in float32 and bfloat16, in one run.

    python benchmarks/bench_decoder.py --model v2flow-emoji
    python benchmarks/bench_decoder.py --preset small --reference ~/V2Flow
    python benchmarks/bench_decoder.py --preset large --decoders "engine bfloat16" --batches 1 4 --repeats 1

Prints images/s by batch, as ratios to the first decoder (they take turns; medians), operations by part, the share of
the machine's own rate of matrix products, and a run of random arrivals with mixed grids. The last line is one JSON
document. Presets, and comparisons with the reference, go as far as latents. Tokens and files are not in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.decoder_arrivals import arrivals
from benchmarks.decoder_counts import autoencoder_flops, count_flops
from benchmarks.decoder_presets import PRESETS, ROUNDS, load_preset
from benchmarks.decoder_reference import reference_sampling
from benchmarks.decoder_table import table
from benchmarks.decoder_work import (
    DTYPES,
    AnyDecoder,
    Decode,
    build_decoders,
    make_requests,
    mixed_requests,
)
from benchmarks.harness import machine, printed
from v2flow_engine.checkpoint import open_tokenizer
from v2flow_engine.decoding.engine.settings import ATTENTION, EngineSettings
from v2flow_engine.decoding.limits import Limits
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.errors import RequestError
from v2flow_engine.planning.device_rates import matmul_rate, synchronize

OURS = ("plain float32", "engine float32", "engine bfloat16")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    which = options.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="NAME|DIR", default="v2flow-emoji")
    which.add_argument(
        "--preset", choices=PRESETS, help="random weights in a size of the reference, or a small one"
    )
    options.add_argument(
        "--reference", type=Path, metavar="DIR", help="a checkout of the reference, to run beside"
    )
    options.add_argument(
        "--decoders", nargs="+", metavar="NAME", help=f"of {', '.join(OURS)}, reference float32, ..."
    )
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64], metavar="B")
    options.add_argument("--repeats", type=int, default=5, help="runs of each, of which the median counts")
    options.add_argument("--mixed", action="store_true", help="batches of mixed grids and rounds")
    options.add_argument("--rounds", type=int, help="default: the model's")
    options.add_argument("--flow-steps", type=int, help="default: the model's")
    options.add_argument("--guidance", type=float, help="the decoder's own; default: the model's")
    options.add_argument("--arrivals", type=int, default=64, help="images that arrive at random; 0: none")
    options.add_argument(
        "--load", type=float, default=0.8, help="their rate, as a share of the plain sampler's best"
    )
    options.add_argument("--attention", choices=ATTENTION, nargs="+", default=["auto"])
    options.add_argument("--max-tokens", type=int, help="the engine's budget")
    options.add_argument("--compile", action="store_true", help="operations are not counted then")
    options.add_argument("--cuda-graphs", action="store_true")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 2 for a mistake in what was given."""
    args = parser().parse_args(argv)
    return 2 if printed("bench_decoder", lambda: run(args), table) is None else 0


@dataclasses.dataclass(frozen=True)
class Work:
    """What all decoders are given, and how far they go."""

    limits: Limits
    size: str
    parameters: dict[str, float]
    latents: bool

    def requests(self, count: int, mixed: bool = False, seed: int = 0) -> list[DecodeRequest]:
        """Seeded requests, on mixed grids if asked."""
        requests = make_requests(self.limits, self.size, count, **self.parameters, seed=seed)
        return mixed_requests(self.limits, requests, seed) if mixed else requests

    def decode_of(self, decoder: AnyDecoder) -> Decode:
        """The function that is measured."""
        return decoder.decode_latents if self.latents else decoder.decode


def run(args: argparse.Namespace) -> dict:
    """Measure everything. Raises `V2FlowError` for a model, size or setting that cannot be."""
    if min(args.batches) < 1 or args.repeats < 1 or args.load <= 0:
        raise RequestError("--batches, --repeats and --load must be positive")
    if args.mixed and args.reference:
        raise RequestError("--mixed: the reference has one grid")
    decoders, work = prepare(args)
    speed, first = throughput(decoders, work, args)
    report = {
        "machine": machine(args.device),
        "model": args.preset or str(args.model),
        "size": work.size,
        "to": "latents" if work.latents else "pixels",
        **work.parameters,
        "mixed": args.mixed,
        "settings": {"max_tokens": args.max_tokens, "compile": args.compile, "cuda_graphs": args.cuda_graphs},
        "images_per_second": speed,
        "first_turn_seconds": first,
    }
    requests = work.requests(min(args.batches), args.mixed)
    if len(decoders) > 1:
        report["largest_difference"] = differences(decoders, requests)
    if not args.compile:
        report["flops_per_image"] = {
            name: count_flops(decoder, work.decode_of(decoder), requests)
            for name, decoder in decoders.items()
        }
        some = next(d for d in decoders.values() if hasattr(d, "autoencoder"))
        report["autoencoder_flops"] = autoencoder_flops(some.autoencoder, work.limits, work.size)
        report["matmul"] = share_of_matmul(report, args.device)
    if args.arrivals and not work.latents:
        report["arrivals"] = arrivals(decoders, work.requests(args.arrivals, mixed=True, seed=1), args, speed)
    report["peak_memory_bytes"] = peak_memory(args.device)
    return report


def prepare(args: argparse.Namespace) -> tuple[dict[str, AnyDecoder], Work]:
    """The decoders and their work: a preset, or a model folder; the reference's settings beside the reference."""
    parameters = {"rounds": args.rounds, "flow_steps": args.flow_steps, "guidance": args.guidance}
    sampling = reference_sampling(args.rounds or ROUNDS)
    if args.preset:
        tokenizer, autoencoder = load_preset(args.preset, args.device)
    else:
        folder = open_tokenizer(args.model)
        tokenizer, autoencoder = (
            folder.load_visual_tokenizer(args.device),
            folder.load_autoencoder(args.device),
        )
        defaults = folder.defaults
    if args.preset or args.reference:
        tokenizer.config = dataclasses.replace(tokenizer.config, flow=sampling.flow())
        own = (sampling.num_iter, sampling.flow_steps, sampling.guidance_scale)
    else:
        own = (defaults.rounds, defaults.flow_steps, defaults.decoder_guidance)
    names = zip(parameters, own, strict=True)
    parameters = {name: given if (given := parameters[name]) is not None else value for name, value in names}
    if args.reference and parameters != dict(zip(parameters, own, strict=True)):
        raise RequestError(f"the reference takes {sampling.flow_steps} steps with a guidance of {own[2]}")
    wanted = args.decoders or (["reference float32"] if args.reference else []) + list(OURS)
    settings = EngineSettings(max_tokens=args.max_tokens, compile=args.compile, cuda_graphs=args.cuda_graphs)
    decoders = build_decoders(wanted, tokenizer, autoencoder, args.attention, settings, args.reference)
    limits = Limits(tokenizer.config, autoencoder.downscale)
    rows, columns = (
        side * tokenizer.config.downsample * autoencoder.downscale for side in tokenizer.config.token_grid
    )
    return decoders, Work(limits, f"{columns}x{rows}", parameters, bool(args.preset or args.reference))


def throughput(
    decoders: dict[str, AnyDecoder], work: Work, args: argparse.Namespace
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """images/s, and the seconds of the first turn, which warms up, of each decoder at each batch.

    The decoders take turns, so that a busy machine slows all of them.
    """
    speed: dict[str, dict[str, float]] = {name: {} for name in decoders}
    first: dict[str, dict[str, float]] = {name: {} for name in decoders}
    for batch in args.batches:
        requests = work.requests(batch, args.mixed)
        seconds: dict[str, list[float]] = {name: [] for name in decoders}
        for _ in range(args.repeats + 1):
            for name, decoder in decoders.items():
                synchronize(args.device)
                start = time.perf_counter()
                work.decode_of(decoder)(requests)
                synchronize(args.device)
                seconds[name].append(time.perf_counter() - start)
        for name, values in seconds.items():
            first[name][str(batch)] = values[0]
            speed[name][str(batch)] = batch / statistics.median(values[1:])
    return speed, first


def differences(decoders: dict[str, AnyDecoder], requests: Sequence[DecodeRequest]) -> dict[str, float]:
    """Of each decoder's latents from the first one's: the largest, relative to the largest latent of an image."""
    (_, first), *others = decoders.items()
    theirs = first.decode_latents(requests)
    return {
        name: max(
            float((a - b).abs().max() / b.abs().max())
            for a, b in zip(decoder.decode_latents(requests), theirs, strict=True)
        )
        for name, decoder in others
    }


def share_of_matmul(report: dict, device: str) -> dict[str, dict[str, float]]:
    """For each dtype the measured rate; for each decoder the share of it that its best batch reaches."""
    rates = {name: matmul_rate(device, dtype) for name, dtype in DTYPES.items()}
    shares = {
        name: max(speeds.values()) * report["flops_per_image"][name]["all"] / rates[name.split()[1]]
        for name, speeds in report["images_per_second"].items()
    }
    return {"flops_per_second": rates, "share": shares}


def peak_memory(device: str) -> int:
    """Bytes: of the CUDA allocator, or of the whole process. All decoders of the run are in it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
