"""`v2flow plan`: images and a deadline -> GPUs for tokens and for decoding, time, hours, and every assumption.

With --calibrate: this machine -> a file of measured rates, which --gpu takes in place of a GPU's name.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from v2flow_engine.errors import RequestError
from v2flow_engine.planning.hardware import GPUS
from v2flow_engine.planning.presets import DECODERS, LLMS

HELP = (
    "How many GPUs a large job takes, of which how many for each stage, how long, and how many GPU hours, from counts "
    "of operations and bytes. Every assumption is printed; those that were not measured say so. With --calibrate, "
    "measure this machine first: its file, as --gpu, plans with measured rates."
)
# option -> field of `Rates`, what it is
RATE_OPTIONS = {
    "llm-bandwidth-share": ("llm_bandwidth", "of peak bandwidth that the LLM's reads reach"),
    "llm-compute-share": ("llm_compute", "of peak operations that the LLM's products reach"),
    "step-overhead-ms": ("step_overhead", "milliseconds of an engine step beside reads and products"),
    "transformer-share": ("transformer", "of the roofline that the masked transformer reaches"),
    "velocity-share": ("velocity", "of the roofline that the velocity net reaches"),
    "autoencoder-share": ("autoencoder", "of the roofline that the autoencoder reaches"),
    "encode-seconds": ("encode", "seconds to encode a megapixel as a file, by a decoder actor's threads"),
    "startup-seconds": ("startup", "until all actors are at work"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `v2flow plan`."""
    parser.add_argument("--images", type=int, metavar="N", help="pictures to make")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--deadline", metavar="T", help="90m, 36h, 7d, 1d12h or seconds: as few GPUs as it takes"
    )
    amount.add_argument(
        "--gpus", type=int, metavar="G", help="so many GPUs (or calibrated machines): how long it takes"
    )
    names = f"{', '.join(LLMS)}, or a folder with an HF config.json, or a model"
    parser.add_argument("--llm", default="llama-2-7b", metavar="NAME|DIR", help=f"{names} (%(default)s)")
    parser.add_argument(
        "--decoder",
        default="large",
        metavar="NAME|DIR",
        help=f"{', '.join(DECODERS)}, or a model (%(default)s)",
    )
    parser.add_argument(
        "--gpu",
        default="h100",
        metavar="NAME|FILE",
        help=f"{', '.join(GPUS)}, or a calibration, its file or folder (%(default)s)",
    )
    parser.add_argument("--decoder-gpu", metavar="NAME|FILE", help="of the decoder, where it is another kind")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="measure this machine with the model that --decoder names",
    )
    work = parser.add_argument_group("the work for each picture; the model's own values where it has them")
    work.add_argument("--size", metavar="WxH", help="in pixels")
    work.add_argument("--prompt-tokens", type=int, default=32, metavar="P", help="(default: %(default)s)")
    work.add_argument("--guidance", type=float, metavar="G", help="of the LLM; 1 is none and halves its work")
    work.add_argument("--rounds", type=int, metavar="R")
    work.add_argument("--flow-steps", type=int, metavar="F")
    work.add_argument("--decoder-guidance", type=float, metavar="G", help="1 is none")
    work.add_argument("--solver", metavar="NAME")
    work.add_argument(
        "--in-flight",
        type=int,
        default=64,
        metavar="N",
        help="images in an engine at once, at most (%(default)s)",
    )
    work.add_argument(
        "--memory-share",
        type=float,
        default=0.9,
        metavar="X",
        help="of a GPU's memory that is used (%(default)s)",
    )
    rates = parser.add_argument_group("rates, in place of the assumed or calibrated ones")
    for option, (_, text) in RATE_OPTIONS.items():
        rates.add_argument(f"--{option}", type=float, metavar="X", help=text)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises `V2FlowError`."""
    if args.calibrate is not None:
        return _calibrate(args)
    from v2flow_engine.evaluation.report import last_line
    from v2flow_engine.planning.report import document, text

    report = document(args, _given_rates(args))
    print(text(report))
    print(last_line(report))
    return 0


def _given_rates(args: argparse.Namespace) -> dict[str, float]:
    """The rates that were given on the command line, in `Rates`' units."""
    values = {}
    for option, (field, _) in RATE_OPTIONS.items():
        value = getattr(args, option.replace("-", "_"))
        if value is not None:
            values[field] = value / 1000 if option.endswith("-ms") else value
    return values


def _calibrate(args: argparse.Namespace) -> int:
    """Measure and write; nothing is planned."""
    if args.images is not None or args.deadline is not None or args.gpus is not None:
        raise RequestError(
            "--calibrate measures and plans nothing: leave --images, --deadline and --gpus out"
        )
    if args.decoder in DECODERS:
        raise RequestError(
            "--calibrate runs a model: give one as --decoder, an embedded one such as v2flow-emoji or a folder"
        )
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.evaluation.report import last_line
    from v2flow_engine.files import told_as_output_error, write_whole
    from v2flow_engine.planning.calibrate import measure
    from v2flow_engine.planning.hardware import to_json
    from v2flow_engine.planning.request import find_subject

    folder = open_model(args.decoder)
    subject = find_subject(args, args.decoder)
    with told_as_output_error(args.calibrate.parent):
        args.calibrate.parent.mkdir(parents=True, exist_ok=True)
    hardware, rates, measured = measure(
        folder, subject.decoder, subject.guidance, lambda what: print(f"measuring {what}", file=sys.stderr)
    )
    content = to_json(hardware, rates, {"model": folder.config.name, "size": subject.size, **measured})
    with told_as_output_error(args.calibrate.parent):
        write_whole(args.calibrate, (json.dumps(content, indent=2) + "\n").encode())
    for name, value in vars(rates).items():
        print(f"{name.replace('_', ' '):<16}{value:.4g}")
    print(f"wrote {args.calibrate}")
    print(last_line(content))
    return 0
