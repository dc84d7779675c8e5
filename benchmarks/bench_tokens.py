"""How fast are visual tokens written? The plugin against transformers' `generate`, guided and not, in one run.

    python benchmarks/bench_tokens.py --model v2flow-emoji
    python benchmarks/bench_tokens.py --shape llama-2-7b --dtype bfloat16 --images 1 8 64      on a GPU, random weights

Prints tokens/s by images in flight, as ratios to transformers of the same kind (writers take turns; medians), and how
much of the machine that is: operations as a share of its rate of matrix products, bytes as a share of its rate of
copies. On a CPU "one a core" is an engine for each thread, pinned, which share the images. First all writers write the
same images greedily, and the share of equal tokens is told. The last line is one JSON document. Loading is not in the
times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import machine, printed
from benchmarks.token_work import SHAPES, TokenWork, cost_of, prompts_of, random_model, random_prompts
from benchmarks.token_writers import Writer, WriterProcesses
from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.errors import RequestError
from v2flow_engine.guidance import UNGUIDED
from v2flow_engine.planning.device_rates import matmul_rate, memory_rate

GUIDED, PLAIN = "transformers, guided", "transformers, unguided"
ROWS = {
    # name: (writer, guided, requests per image, compared with)
    "plugin, guided": ("guided", True, 1, GUIDED),
    "plugin, guided, compiled": ("compiled", True, 1, GUIDED),
    "plugin, guided, compiled, one a core": ("compiled, one a core", True, 1, GUIDED),
    "plugin, guided, scale 1": ("guided", False, 1, PLAIN),
    "plugin, unguided": ("unguided", False, 1, PLAIN),
    "plugin, unguided, two requests": ("unguided", False, 2, GUIDED),
    GUIDED: ("transformers", True, 1, GUIDED),
    "transformers, guided, one a core": ("transformers, one a core", True, 1, GUIDED),
    PLAIN: ("transformers", False, 1, PLAIN),
}
ON_A_CPU = {
    "plugin, guided, compiled",
    "plugin, guided, compiled, one a core",
    "transformers, guided, one a core",
}
AGREEMENT_IMAGES = 8


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", metavar="NAME|DIR", default="v2flow-emoji")
    options.add_argument("--shape", choices=SHAPES, help="random weights in a known size instead of a model")
    options.add_argument("--images", type=int, nargs="+", default=[1, 8, 64, 256], metavar="N")
    options.add_argument("--repeats", type=int, default=3, help="runs of each, of which the median counts")
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options.add_argument("--guidance", type=float, help="default: the model's")
    options.add_argument("--temperature", type=float, help="default: the model's")
    options.add_argument("--top-k", type=int, help="default: the model's")
    options.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        metavar="ROW",
        help="of the table; default: all that mean anything here",
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 2 for a mistake in what was given."""
    args = parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        report = printed("bench_tokens", lambda: run(args, Path(scratch)), table)
    return 2 if report is None else 0


def run(args: argparse.Namespace, scratch: Path) -> dict:
    """Measure everything. Raises `V2FlowError` for a model or setting that cannot be."""
    if min(args.images) < 1 or args.repeats < 1:
        raise RequestError("--images and --repeats must be positive")
    folder = random_model(args.shape, scratch) if args.shape else open_model(args.model)
    work = work_of(args, folder)
    # a GPU's engines are compiled anyway, and one is enough
    args.rows = args.rows or [row for row in ROWS if work.device == "cpu" or row not in ON_A_CPU]
    rates = {
        "flops_per_second": matmul_rate(work.device, getattr(torch, work.dtype)),
        "bytes_per_second": memory_rate(work.device),
    }
    writers = start_writers(args, work)
    try:
        agreement = None if work.random else agree(writers, work)
        speed = throughput(writers, work, args)
    finally:
        for writer in writers.values():
            writer.close()
    return {
        "machine": machine(work.device),
        "model": args.shape or str(args.model),
        "dtype": work.dtype,
        "num_visual_tokens": work.num_visual_tokens,
        "guidance_scale": work.guidance_scale,
        "temperature": work.temperature,
        "top_k": work.top_k,
        "greedy_tokens_equal": agreement,
        "tokens_per_second": speed,
        "rates": rates,
        "share": shares(speed, work, folder, rates),
    }


def work_of(args: argparse.Namespace, folder: ModelFolder) -> TokenWork:
    """What each image asks for."""
    defaults, size = folder.config.defaults, folder.config.default_size
    return TokenWork(
        model=str(folder.path),
        random=args.shape is not None,
        prompts=random_prompts(folder) if args.shape else prompts_of(folder, size),
        num_visual_tokens=folder.vocabulary.num_visual_tokens(size),
        guidance_scale=defaults.guidance_scale if args.guidance is None else args.guidance,
        temperature=defaults.temperature if args.temperature is None else args.temperature,
        top_k=defaults.top_k if args.top_k is None else args.top_k,
        dtype=args.dtype,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


def start_writers(args: argparse.Namespace, work: TokenWork) -> dict[str, WriterProcesses]:
    """Those that the rows need."""
    most, threads = max(args.images), torch.get_num_threads()
    kinds = {
        "guided": Writer("vllm", guided=True, most=most),
        "compiled": Writer("vllm", guided=True, most=most, compiled=True),
        "compiled, one a core": Writer("vllm", guided=True, most=most, compiled=True, processes=threads),
        "unguided": Writer("vllm", guided=False, most=2 * most),
        "transformers": Writer("transformers"),
        "transformers, one a core": Writer("transformers", processes=threads),
    }
    needed = dict.fromkeys(ROWS[row][0] for row in args.rows)
    return {name: WriterProcesses(kinds[name], work, threads) for name in needed}


def agree(writers: dict[str, WriterProcesses], work: TokenWork) -> dict[str, float]:
    """Share of greedy tokens that equal transformers', guided and not, where both writers run."""
    found = {}
    for name, scale in (("guided", work.guidance_scale), ("unguided", 1.0)):
        if name not in writers or "transformers" not in writers:
            continue
        ours, theirs = (
            writers[each].write(AGREEMENT_IMAGES, 0, scale, 0.0)[0] for each in (name, "transformers")
        )
        equal = [a == b for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
        found[name] = sum(equal) / len(equal)
    return found


def throughput(
    writers: dict[str, WriterProcesses], work: TokenWork, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Tokens/s of images by row and images at once: the rows take turns, the first turn warms up."""
    speed: dict[str, dict[str, float]] = {row: {} for row in args.rows}
    for images in args.images:
        seconds: dict[str, list[float]] = {row: [] for row in args.rows}
        for repeat in range(args.repeats + 1):
            for row in args.rows:
                writer, guided, requests, _ = ROWS[row]
                scale = work.guidance_scale if guided else UNGUIDED.scale
                written, took = writers[writer].write(
                    images * requests, repeat * 10_000, scale, work.temperature
                )
                if any(len(ids) != work.num_visual_tokens for ids in written):
                    raise RuntimeError(f"{row}: an image has not its {work.num_visual_tokens} tokens")
                if repeat:
                    seconds[row].append(took)
        for row, took in seconds.items():
            speed[row][str(images)] = images * work.num_visual_tokens / statistics.median(took)
    return speed


def shares(
    speed: dict[str, dict[str, float]], work: TokenWork, folder: ModelFolder, rates: dict[str, float]
) -> dict[str, dict[str, dict[str, float]]]:
    """Of the rates of matrix products and of copies, what each row uses of what its tokens need at least."""
    length = round(statistics.mean(map(len, work.prompts)))
    cost = cost_of(folder, length, work.num_visual_tokens, work.dtype)
    found: dict[str, dict[str, dict[str, float]]] = {row: {} for row in speed}
    for row, by_images in speed.items():
        streams = 2 if ROWS[row][1] or ROWS[row][2] == 2 else 1
        for images, tokens_per_second in by_images.items():
            images_per_second = tokens_per_second / work.num_visual_tokens
            weights = cost.weight_bytes * work.num_visual_tokens / int(images)
            found[row][images] = {
                "matmul": images_per_second * streams * cost.flops / rates["flops_per_second"],
                "memory": images_per_second
                * (weights + streams * cost.cache_bytes)
                / rates["bytes_per_second"],
            }
    return found


def table(report: dict) -> str:
    """The report for a reader."""
    speeds, shares = report["tokens_per_second"], report["share"]
    counts = list(next(iter(speeds.values())))
    told = report["machine"]
    lines = [
        f"{report['model']}, {report['dtype']}, {report['num_visual_tokens']} tokens an image, scale "
        f"{report['guidance_scale']:g}, temperature {report['temperature']:g}, top-k {report['top_k']}; "
        f"{told['device']}, {told['threads']} threads, torch {told['torch']}",
        "greedy tokens equal to transformers': "
        + (
            ", ".join(f"{k} {v:.2%}" for k, v in (report["greedy_tokens_equal"] or {}).items())
            or "not compared"
        ),
        "",
        f"{'images at once':<32}" + "".join(f"{count:>18}" for count in counts),
    ]
    for row, values in speeds.items():
        base = speeds.get(ROWS[row][3])
        ratios = (f" ({values[c] / base[c]:.2f}x)" if base else "" for c in counts)
        cells = (f"{values[c]:,.0f}{ratio}" for c, ratio in zip(counts, ratios, strict=True))
        lines.append(f"{row:<32}" + "".join(f"{cell:>18}" for cell in cells))
    for kind, unit in (("matmul", "flops_per_second"), ("memory", "bytes_per_second")):
        lines += ["", f"share of {report['rates'][unit] / 1e9:,.0f} G{unit.split('_')[0]}/s ({kind})"]
        for row, by_count in shares.items():
            cells = (f"{by_count[c][kind]:.1%}" for c in counts)
            lines.append(f"{row:<32}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
