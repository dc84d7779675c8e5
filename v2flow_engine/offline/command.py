"""`v2flow generate`: prompts from flags, files or URLs -> a folder of pictures, a manifest and a contact sheet.

Checks everything that a user can get wrong before it creates a file or starts an engine. Running it again on
the same folder makes what is missing.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from v2flow_engine.config import SOLVERS
from v2flow_engine.guidance import SCHEDULES
from v2flow_engine.images import FORMATS
from v2flow_engine.offline.prepare import check
from v2flow_engine.offline.shards import CONTAINERS
from v2flow_engine.offline.sources import INPUT_FORMATS
from v2flow_engine.precision import DTYPE_HELP, DTYPES

HELP = "Make pictures from prompts, into a folder. Running it again on the same folder makes what is missing."
RAY_FROM = 8  # pictures; below, Ray would take longer to start than to be of use


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `v2flow generate`."""
    from v2flow_engine.generation.pipeline import DEFAULT_MODEL

    parser.add_argument("--model", default=DEFAULT_MODEL, help="name, folder or URL (default: %(default)s)")
    _add_input(parser)
    _add_output(parser)
    parser.add_argument("--n", type=int, default=1, help="pictures of each prompt (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first picture, +1 for each (default: %(default)s)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help=DTYPE_HELP)
    _add_settings(parser)
    _add_ray(parser)


def _add_input(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; may be repeated")
    source.add_argument(
        "--prompts",
        metavar="FILE",
        help="text (a prompt per line), JSONL, CSV, Parquet or WebDataset tar; a folder or a glob of them; "
        "a path or an fsspec URL; - is standard input",
    )
    parser.add_argument(
        "--input-format",
        choices=INPUT_FORMATS,
        help="of --prompts (default: by the file's suffix, else text)",
    )
    parser.add_argument(
        "--prompt-column", default="prompt", metavar="NAME", help="of --prompts (default: %(default)s)"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder for pictures and manifest"
    )
    parser.add_argument(
        "--format",
        choices=(*FORMATS, *CONTAINERS),
        default="png",
        help="files of a picture each, or shards of many (default: %(default)s)",
    )
    parser.add_argument("--image-format", choices=FORMATS, help="of the pictures in shards (default: png)")
    parser.add_argument(
        "--shard-size",
        type=int,
        metavar="N",
        help="a shard is full at so many pictures (default: 1000, without --shard-bytes)",
    )
    parser.add_argument(
        "--shard-bytes",
        metavar="SIZE",
        help="a shard is full at so many bytes of pictures (default: 268MB, without --shard-size)",
    )
    parser.add_argument(
        "--force-new",
        action="store_true",
        help="make pictures anew whose prompt, seed or settings have changed",
    )
    parser.add_argument(
        "--max-errors",
        type=int,
        metavar="N",
        help="stop when more rows than this can't be made, whole or in part (default: never)",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("settings that default to the model's own; a row's own ones go first")
    model.add_argument("--size", metavar="WxH", help="in pixels")
    model.add_argument(
        "--guidance", type=float, metavar="G", help="how strongly the prompt rules; 1 is unguided"
    )
    model.add_argument(
        "--guidance-schedule",
        choices=SCHEDULES,
        help="linear: guidance grows from 1 over the image's tokens",
    )
    model.add_argument(
        "--temperature", type=float, metavar="T", help="of the LLM; 0 takes the likeliest token"
    )
    model.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens; 0 is all")
    model.add_argument("--rounds", type=int, metavar="R", help="of the masked decoder")
    model.add_argument("--flow-steps", type=int, metavar="F", help="solver steps in each round")
    model.add_argument(
        "--decoder-temperature",
        type=float,
        metavar="T",
        help="scale of the decoder's noise; less, less variety",
    )
    model.add_argument("--solver", choices=SOLVERS, help="of the velocity field; dopri5 chooses its steps")


def _add_ray(parser: argparse.ArgumentParser) -> None:
    ray = parser.add_argument_group(
        f"Ray Data, used from {RAY_FROM} pictures on or when one of these is given"
    )
    ray.add_argument(
        "--ray-address", metavar="ADDRESS", help='of a cluster; "auto" finds one on this machine'
    )
    ray.add_argument(
        "--token-actors", type=int, metavar="A", help="processes that run the LLM (default: measured or half)"
    )
    ray.add_argument(
        "--decoder-actors", type=int, metavar="D", help="processes that run the decoder (default: likewise)"
    )
    ray.add_argument(
        "--batch-invariant",
        action="store_true",
        help="on GPUs: nothing of a picture depends on its batch; slower",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0, 1 if some pictures could not be made, 130 if interrupted. Raises `V2FlowError`."""
    job = check(args)
    from v2flow_engine.offline.cluster import quiet_output
    from v2flow_engine.offline.identity import KeySet
    from v2flow_engine.offline.interrupts import listening
    from v2flow_engine.offline.run import JobRun, RayWishes
    from v2flow_engine.offline.sink import open_sink

    wishes = RayWishes(
        args.ray_address, args.token_actors, args.decoder_actors, args.batch_invariant, RAY_FROM
    )
    changed = job.survey.changed if args.force_new else KeySet()
    with ExitStack() as stack:
        interrupts = stack.enter_context(listening())
        stderr = stack.enter_context(quiet_output())
        with open_sink(
            job.out, job.output, job.identity, pictures=job.survey.pictures, changed=changed
        ) as sink:
            run = JobRun(job, sink, wishes, args.max_errors, stderr, interrupts)
            run.make()
        return run.finish()
