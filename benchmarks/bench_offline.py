"""How fast are many pictures made, from prompts to files? A plain loop, one process, Ray Data; in one run.

    python benchmarks/bench_offline.py --images 1000
    python benchmarks/bench_offline.py --scale 100 1000 10000      does the speed hold as jobs grow?

Images/s without loading, as ratios to the plain loop: transformers' guided `generate` for a batch of 64, the plain
sampler, the autoencoder, Pillow. Of Ray Data also the seconds to the first picture, and the overhead: the share of the
run in which the busier pool's actors did not work; and the images/s of the middle half of a job, which no queue that
fills or runs empty speeds up. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import machine, printed
from benchmarks.offline_ways import Measured, in_own_process, plain_loop, ray_data, single_process
from benchmarks.token_work import example_prompts
from v2flow_engine.checkpoint import open_model
from v2flow_engine.errors import RequestError

PLAIN = "plain loop"
WAYS = {
    PLAIN: partial(in_own_process, plain_loop),
    "single process": partial(in_own_process, single_process),
    "Ray Data, 1 + 1 actors": partial(ray_data, token_actors=1, decoder_actors=1),
    "Ray Data, 1 + 2 actors": partial(ray_data, token_actors=1, decoder_actors=2),
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", metavar="NAME|DIR", default="v2flow-emoji")
    options.add_argument("--images", type=int, default=1000, help="of each way (default: %(default)s)")
    options.add_argument("--plain-images", type=int, help="of the plain loop, whose speed does not change")
    options.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of every way")
    options.add_argument(
        "--scale",
        type=int,
        nargs="+",
        metavar="N",
        help="instead: Ray Data, 1 + 1 actors, with so many images",
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 2 for a mistake in what was given."""
    args = parser().parse_args(argv)
    return 2 if printed("bench_offline", lambda: run(args), table) is None else 0


def run(args: argparse.Namespace) -> dict:
    """Measure. Raises `V2FlowError`."""
    counts = args.scale or [args.images, args.plain_images or args.images]
    if min(counts) < 1:
        raise RequestError("--images, --plain-images and --scale must be positive")
    model = str(open_model(args.model).path)
    prompts = example_prompts()
    measured: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as scratch:

        def measure(name: str, way: str, images: int) -> None:
            out = Path(scratch) / str(len(measured))
            out.mkdir()
            measured[name] = WAYS[way](model, prompts, images, out, args.dtype)
            print(f"{name}: {measured[name].rate:.2f} images/s", file=sys.stderr, flush=True)

        if args.scale:
            for images in args.scale:
                measure(f"{images} images", "Ray Data, 1 + 1 actors", images)
        else:
            for way in args.ways:
                measure(way, way, args.plain_images or args.images if way == PLAIN else args.images)
    first = next(iter(measured.values())).rate
    return {
        "machine": machine("cpu"),
        "model": args.model,
        "dtype": args.dtype,
        "ways": {
            name: dataclasses.asdict(each) | {"images_per_second": each.rate, "ratio": each.rate / first}
            for name, each in measured.items()
        },
    }


def table(report: dict) -> str:
    """The report for a reader."""
    told = report["machine"]
    lines = [
        f"{report['model']}, {report['dtype']}; {told['device']}, {told['threads']} threads, torch {told['torch']}",
        "",
        f"{'':<26}{'images':>8}{'images/s':>10}{'ratio':>8}{'middle':>8}{'loading':>10}{'overhead':>10}",
    ]
    for name, way in report["ways"].items():
        overhead = "" if way["overhead"] is None else f"{way['overhead']:.1%}"
        middle = "" if way["middle"] is None else f"{way['middle']:.2f}"
        lines.append(
            f"{name:<26}{way['images']:>8}{way['images_per_second']:>10.2f}{way['ratio']:>7.2f}x"
            f"{middle:>8}{way['loading']:>9.1f}s{overhead:>10}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
