"""How many rounds and solver steps does a model need? PSNR, FID and speed against rounds x steps, in one run.

    python benchmarks/bench_sampling.py --model v2flow-emoji --data data/common --features runs/features

Held-out pictures are encoded once; each setting decodes the same codes with the same seeds. Speeds are ratios to the
model's own setting. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import printed
from v2flow_engine.checkpoint import open_tokenizer
from v2flow_engine.errors import RequestError
from v2flow_engine.evaluation.features import FEATURES, fid, load_features
from v2flow_engine.evaluation.metrics import psnr, ssim
from v2flow_engine.evaluation.report import format_table, machine
from v2flow_engine.generation.image_tokenizer import ImageTokenizer
from v2flow_engine.training.batches import spread
from v2flow_engine.training.pictures import load_pictures

HELDOUT = ("heldout_combination", "heldout_emoji")
COLUMNS = ("rounds", "flow_steps", "temperature", "psnr", "ssim", "fid", "images_per_second", "speed")
BATCH = 64


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", metavar="NAME|DIR", default="v2flow-emoji")
    options.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR")
    options.add_argument(
        "--features", type=Path, metavar="DIR", help="of `v2flow train features`; no FID without"
    )
    options.add_argument("--images", type=int, default=512, metavar="N")
    options.add_argument("--rounds", type=int, nargs="+", default=[1, 2, 4, 8])
    options.add_argument("--flow-steps", type=int, nargs="+", default=[1, 2, 4, 8])
    options.add_argument(
        "--temperatures", type=float, nargs="+", help="of the decoder's noise; default: the model's"
    )
    options.add_argument("--device", help="default: a GPU where there is one")
    options.add_argument("--seed", type=int, default=0)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 2 for a mistake in what was given."""
    args = parser().parse_args(argv)
    return 2 if printed("bench_sampling", lambda: run(args), table) is None else 0


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Encode once, then decode and judge every setting. Raises `V2FlowError`."""
    if args.features is not None and args.images <= FEATURES:
        raise RequestError(f"FID needs more than {FEATURES} --images, got {args.images}")
    folder = open_tokenizer(args.model)
    features, digest = (None, None) if args.features is None else load_features(args.features)
    held_out = load_pictures(args.data, HELDOUT, workers=2)[0]
    originals = list(held_out.pixels[spread(held_out, args.images)].numpy())
    tokenizer = ImageTokenizer.from_folder(folder, device=args.device, batch_size=BATCH)
    codes = tokenizer.encode([Image.fromarray(each) for each in originals], size=held_out.size)
    defaults = folder.defaults
    own = (defaults.rounds, defaults.flow_steps, defaults.decoder_temperature)
    temperatures = args.temperatures or [own[2]]
    settings = [own, *(s for s in itertools.product(args.rounds, args.flow_steps, temperatures) if s != own)]
    rows = []
    for rounds, steps, temperature in settings:
        chosen = {"rounds": rounds, "flow_steps": steps, "decoder_temperature": temperature}
        tokenizer.decode(codes[:BATCH], seeds=args.seed, **chosen)  # warms up
        start = time.perf_counter()
        pictures = [np.asarray(each) for each in tokenizer.decode(codes, seeds=args.seed, **chosen)]
        speed = len(pictures) / (time.perf_counter() - start)
        rows.append(
            {
                "rounds": rounds,
                "flow_steps": steps,
                "temperature": temperature,
                "psnr": float(np.mean(psnr(pictures, originals))),
                "ssim": float(np.mean(ssim(pictures, originals))),
                "fid": None if features is None else fid(features, pictures, originals),
                "images_per_second": speed,
                "speed": speed / rows[0]["images_per_second"] if rows else 1.0,
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {
        "benchmark": "sampling",
        "model": str(args.model),
        "images": len(originals),
        "size": held_out.size,
        "features": digest,
        "hardware": machine(),
        "settings": rows,
    }


def table(report: dict[str, Any]) -> str:
    """A row a setting."""
    return format_table(
        COLUMNS, [[str(row["rounds"]), *(row[c] for c in COLUMNS[1:])] for row in report["settings"]]
    )


if __name__ == "__main__":
    sys.exit(main())
