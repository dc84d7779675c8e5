"""Which pictures a command reads, and at which sizes: its options -> pictures in memory."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from v2flow_engine.cores import usable_cores
from v2flow_engine.errors import RequestError
from v2flow_engine.fitting import FITS, parse_color
from v2flow_engine.training.coded import Coded
from v2flow_engine.training.pictures import HELDOUT, HELDOUT_SHARE, Pictures, load_pictures
from v2flow_engine.training.ranks import Ranks
from v2flow_engine.training.sizing import Sizing


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of WebDataset shards (v2flow data emoji), or of images with captions; for an LLM also of codes "
        "(v2flow data codes)",
    )
    group = parser.add_argument_group("pictures of any size, and folders of images")
    group.add_argument(
        "--size",
        nargs="+",
        default=[],
        metavar="WxH",
        help="bring each picture to the one of these sizes that is nearest in aspect ratio",
    )
    group.add_argument("--fit", choices=FITS, default="crop", help="how it is brought there (%(default)s)")
    group.add_argument(
        "--pad-color", metavar="COLOR", help="of pad; the mean of the picture's border if not given"
    )
    group.add_argument(
        "--heldout-share",
        type=float,
        default=HELDOUT_SHARE,
        metavar="S",
        help="share of a folder of images that is not trained on (%(default)s)",
    )
    parser.add_argument("--limit", type=int, help="train on this many pictures of each folder at most")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="threads that read shards")


def read_pictures(args: argparse.Namespace, ranks: Ranks) -> tuple[list[Pictures], list[Pictures]]:
    """(training, held out), a set for each size, on the device if that is a GPU. Raises `DataError`, `RequestError`."""
    started = time.perf_counter()
    sizing, share = sizing_of(args), args.heldout_share
    if not 0 < share < 1:
        raise RequestError(f"--heldout-share must be between 0 and 1, got {share:g}")
    training = load_pictures(args.data, ["train"], args.workers, args.limit, sizing, share)
    heldout = load_pictures(args.data, HELDOUT, args.workers, None, sizing, share)
    tell_counts(training, heldout, ranks)
    ranks.say(f"read in {time.perf_counter() - started:.0f} s")
    if ranks.device.type == "cuda":
        training = [Pictures(p.pixels.to(ranks.device), p.records) for p in training]
        heldout = [Pictures(p.pixels.to(ranks.device), p.records) for p in heldout]
    return training, heldout


def tell_counts(
    training: Sequence[Pictures | Coded], heldout: Sequence[Pictures | Coded], ranks: Ranks
) -> None:
    """Print how many pictures there are of each size."""
    for size in {pictures.size: None for pictures in (*training, *heldout)}:
        seen, unseen = (sum(len(p) for p in sets if p.size == size) for sets in (training, heldout))
        ranks.say(f"{size}: {seen} pictures, {unseen} held out")


def sizing_of(args: argparse.Namespace) -> Sizing:
    """Raises `RequestError` for a malformed size or colour."""
    color = None if args.pad_color is None else parse_color(args.pad_color)
    return Sizing(tuple(dict.fromkeys(args.size)), args.fit, color)
