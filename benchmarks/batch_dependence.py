"""How many pictures change when their batches have other members, and in which stage?

    python benchmarks/batch_dependence.py --images 192 --batches 64 37 1

The same requests in batches of each size, by one process: how many have other visual tokens than in the first size, and
how many other pixels from the same tokens. The first size runs twice: that share should be 0, or it is not the batch.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import machine
from benchmarks.token_work import example_prompts
from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.decoding.load import load_decoder
from v2flow_engine.generation.image_request import ImageRequest, plan_requests
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.generation.token_generator import TokenGenerator
from v2flow_engine.offline.batches import by_size


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", metavar="NAME|DIR", default="v2flow-emoji")
    options.add_argument("--images", type=int, default=192, help="(default: %(default)s)")
    options.add_argument("--batches", type=int, nargs="+", default=[64, 37, 1], metavar="ROWS")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    args = parser().parse_args(argv)
    folder = open_model(args.model)
    prompts = example_prompts()
    prompts = [prompts[i % len(prompts)] for i in range(args.images)]
    requests = plan_requests(prompts, GenerationParameters.resolve(folder), seed=0)
    sizes = [args.batches[0], *args.batches]
    with TokenGenerator(folder, engine_args={"enable_prefix_caching": False}) as generator:
        tokens = [written(folder, generator, requests, size) for size in sizes]
    decoder = load_decoder(folder, device="cpu")
    pixels = [decoded(folder, decoder, requests, tokens[0], size) for size in sizes]
    report = {"machine": machine("cpu"), "model": args.model, "images": args.images, "sizes": {}}
    print(f"{'batch':>8}{'other tokens':>14}{'other pixels':>14}{'at most':>9}")
    for name, row in zip(["reference", *map(str, sizes[1:])], zip(tokens, pixels, strict=True), strict=True):
        others = sum(a != b for a, b in zip(row[0], tokens[0], strict=True)) / args.images
        gaps = [int(np.abs(a.astype(int) - b).max()) for a, b in zip(row[1], pixels[0], strict=True)]
        share = sum(map(bool, gaps)) / args.images
        if name == "reference":
            continue
        print(f"{name:>8}{others:>13.1%}{share:>14.1%}{max(gaps):>9}")
        report["sizes"][name] = {"other_tokens": others, "other_pixels": share, "largest_gap": max(gaps)}
    print(json.dumps(report))
    return 0


def written(
    folder: ModelFolder, generator: TokenGenerator, requests: list[ImageRequest], size: int
) -> list[list[int]]:
    """visual_token_ids, in batches of so many requests."""
    batches = by_size(requests, size)
    return [ids for batch in batches for ids in generator.generate([r.token_request(folder) for r in batch])]


def decoded(
    folder: ModelFolder, decoder: object, requests: list[ImageRequest], tokens: list[list[int]], size: int
) -> list[np.ndarray]:
    """(H, W, 3) uint8 each, in batches of so many requests."""
    ids = {request.index: each for request, each in zip(requests, tokens, strict=True)}
    return [
        np.asarray(picture)
        for batch in by_size(requests, size)
        for picture in decoder.decode([r.decode_request(folder, ids[r.index]) for r in batch])
    ]


if __name__ == "__main__":
    sys.exit(main())
