"""`v2flow data emoji`: arguments -> packages fetched or copied -> a dataset folder. Prints what it does."""

import argparse
from pathlib import Path

from v2flow_engine.cores import usable_cores
from v2flow_engine.errors import DataError, OutputError
from v2flow_engine.training.emoji.catalogue import read_labels
from v2flow_engine.training.emoji.compose import SIZES
from v2flow_engine.training.emoji.dataset import (
    DatasetSettings,
    background_choices,
    build_dataset,
    finished_description,
    is_same,
    shard_paths,
)
from v2flow_engine.training.emoji.sources import copy_packages, fetch_packages

HELP = "make a dataset of captioned emoji pictures (WebDataset shards) from openly licensed sets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `v2flow data emoji`."""
    defaults = DatasetSettings()
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the dataset")
    parser.add_argument(
        "--packages", type=Path, metavar="DIR", help="take the package tarballs from here, no network"
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--images", type=int, default=defaults.images, metavar="N", help="random pictures (%(default)s)"
    )
    amount.add_argument(
        "--all-combinations", action="store_true", help="every emoji, style, colour and count once"
    )
    parser.add_argument(
        "--size", default=defaults.size, choices=SIZES, help="width x height in pixels (%(default)s)"
    )
    parser.add_argument(
        "--background", default=defaults.background, metavar="COLOUR", help=background_choices()
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), metavar="N", help="processes (%(default)s)"
    )
    parser.add_argument(
        "--shard-size",
        type=int,
        default=defaults.shard_size,
        metavar="N",
        help="pictures per shard (%(default)s)",
    )
    parser.add_argument(
        "--emoji",
        default="all",
        metavar="all|common|FILE",
        help="all, a list of common ones, or a file of labels, one a line (%(default)s)",
    )
    parser.add_argument(
        "--wordings",
        action="store_true",
        help="captions also have synonyms, descriptions and other languages in place of the English label",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset that is there")


def run(args: argparse.Namespace) -> int:
    """Makes the dataset; does nothing where the same one is finished already."""
    if args.workers < 1:
        raise DataError(f"--workers is {args.workers}; expected at least 1")
    settings = DatasetSettings(
        images=None if args.all_combinations else args.images,
        size=args.size,
        background=args.background,
        seed=args.seed,
        shard_size=args.shard_size,
        emoji=read_labels(args.emoji),
        wordings=args.wordings,
    )
    if not args.overwrite and _is_finished(args.out, settings):
        print(f"{args.out} holds this dataset already; nothing to do")
        return 0
    packages_dir = args.out / "packages"
    if args.packages is None:
        print("fetching the packages with npm", flush=True)
        fetch_packages(packages_dir)
    else:
        copy_packages(args.packages, packages_dir)
    description = build_dataset(
        settings, args.out, packages_dir, args.workers, lambda line: print(line, flush=True)
    )
    counts = ", ".join(f"{split} {count:,}" for split, count in description["images"].items())
    print(f"{args.out}: {counts}")
    return 0


def _is_finished(out: Path, settings: DatasetSettings) -> bool:
    """Whether the very dataset is there. Raises OutputError where another one, or a part of one, is."""
    description = finished_description(out)
    if description is not None:
        if is_same(description, settings):
            return True
        raise OutputError(
            f"{out} holds another dataset, made with {description.get('settings')}; "
            "choose another --out, or pass --overwrite"
        )
    if shard_paths(out):
        raise OutputError(
            f"{out} holds shards without a dataset.json; choose another --out, or pass --overwrite"
        )
    return False
