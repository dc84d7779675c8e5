"""`v2flow eval reconstruction`: held-out pictures and photographs -> PSNR, SSIM and codebook usage.

The autoencoder alone is the ceiling; the whole tokenizer is what a perfect LLM could show.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from v2flow_engine.config import SOLVERS, parse_size
from v2flow_engine.errors import RequestError
from v2flow_engine.evaluation.report import format_table, last_line, machine

if TYPE_CHECKING:
    from v2flow_engine.evaluation.artwork import Artwork
    from v2flow_engine.evaluation.comparison import Comparison
    from v2flow_engine.evaluation.depictions import Depiction
    from v2flow_engine.evaluation.photographs import Photograph
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer

HELP = "Measure what the autoencoder and the visual tokenizer lose, and how much of the codebook is used."
SHEET_ROWS = 24
CHUNK = 256
SETTINGS = ("rounds", "flow_steps", "decoder_guidance", "decoder_temperature", "solver")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--model", default="v2flow-emoji", metavar="NAME|DIR", help="(%(default)s)")
    parser.add_argument(
        "--packages", type=Path, metavar="DIR", help="emoji tarballs, in place of the network"
    )
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", help="photographs in place of the six free ones"
    )
    parser.add_argument(
        "--images", type=int, default=256, metavar="N", help="held-out pictures (%(default)s)"
    )
    parser.add_argument(
        "--emoji",
        default="all",
        metavar="all|common|FILE",
        help="which to choose from; reconstructions are judged against all (%(default)s)",
    )
    parser.add_argument(
        "--usage-images",
        type=int,
        default=2000,
        metavar="N",
        help="pictures for codebook usage (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choice and of the decoder's noise (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, metavar="R", help="of the decoder; the model's own by default")
    parser.add_argument("--flow-steps", type=int, metavar="F", help="of the decoder, in each round")
    parser.add_argument("--decoder-guidance", type=float, metavar="G", help="1 is none")
    parser.add_argument("--decoder-temperature", type=float, metavar="T", help="of the decoder's noise")
    parser.add_argument("--solver", choices=SOLVERS, help="of the decoder's velocity field")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write sheets: original, autoencoder, tokenizer"
    )


def run(args: argparse.Namespace) -> int:
    """Choose, reconstruct, measure, report."""
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.evaluation.artwork import load_artwork
    from v2flow_engine.evaluation.cache import make_folder
    from v2flow_engine.evaluation.photographs import load_photographs
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer
    from v2flow_engine.generation.parameters import GenerationParameters
    from v2flow_engine.generation.pipeline import default_device
    from v2flow_engine.training.emoji.catalogue import read_labels

    if args.images < 2 or args.usage_images < 1:
        raise RequestError(
            f"--images must be at least 2 and --usage-images 1, got {args.images} and {args.usage_images}"
        )
    folder = open_model(args.model)
    asked_settings = {name: getattr(args, name) for name in SETTINGS}
    settings = GenerationParameters.resolve(folder, **asked_settings)
    width, height = parse_size(settings.size)
    if width != height:
        raise RequestError(f"only models of square pictures can be measured, this one's are {settings.size}")
    if args.out is not None:
        make_folder(args.out)
    labels = read_labels(args.emoji)
    tokenizer = ImageTokenizer.from_folder(folder)
    artwork = load_artwork(args.packages)
    photographs = load_photographs(width, args.photos)
    asked = choose_held_out(artwork, args.images, args.seed, labels)
    start = time.perf_counter()
    emoji = compare_emoji(tokenizer, artwork, asked, args.seed, asked_settings)
    photos = compare_photographs(tokenizer, photographs, args.seed, asked_settings)
    _say(f"encoding {args.usage_images} pictures")
    usage = codebook_usage(tokenizer, artwork, args.usage_images, args.seed, labels)
    setup = {
        "model": folder.config.name,
        "size": settings.size,
        "seed": args.seed,
        "emoji": args.emoji,
        "images": len(asked),
        "usage_images": args.usage_images,
        **{name: getattr(settings, name) for name in SETTINGS},
        "hardware": machine(default_device()),
        "seconds": round(time.perf_counter() - start, 2),
    }
    if args.out is not None:
        print(*(f"wrote {path}" for path in write_sheets(args.out, emoji, photos)), sep="\n")
    report(emoji, photos, judged_top1(artwork, asked, emoji), usage, setup)
    return 0


def choose_held_out(
    artwork: Artwork, number: int, seed: int, labels: Sequence[str] | None = None
) -> list[Depiction]:
    """Held-out pictures: half of them unseen combinations, half emoji never seen in that style."""
    from v2flow_engine.evaluation.depictions import choose_depictions

    emoji = choose_depictions(artwork, "heldout_emoji", number // 2, seed, labels)
    return [*choose_depictions(artwork, "heldout_combination", number - len(emoji), seed, labels), *emoji]


def compare_emoji(
    tokenizer: ImageTokenizer,
    artwork: Artwork,
    asked: Sequence[Depiction],
    seed: int,
    settings: dict[str, Any],
) -> list[Comparison]:
    """Reconstruct the true pictures of what was asked, with the decoder's settings, and measure each."""
    from v2flow_engine.evaluation.calibration import true_pictures
    from v2flow_engine.evaluation.comparison import compare

    _say(f"reconstructing {len(asked)} held-out pictures")
    originals = [Image.fromarray(picture) for picture in true_pictures(artwork, asked)]
    made = tokenizer.reconstruct(originals, seeds=seed, **settings)
    return compare([each.prompt for each in asked], [each.split for each in asked], made)


def compare_photographs(
    tokenizer: ImageTokenizer, photographs: Sequence[Photograph], seed: int, settings: dict[str, Any]
) -> list[Comparison]:
    """The same for photographs."""
    from v2flow_engine.evaluation.comparison import compare

    _say(f"reconstructing {len(photographs)} photographs")
    originals = [Image.fromarray(each.pixels) for each in photographs]
    made = tokenizer.reconstruct(originals, seeds=seed, **settings)
    return compare([each.name for each in photographs], ["photograph"] * len(made), made)


def codebook_usage(
    tokenizer: ImageTokenizer,
    artwork: Artwork,
    number: int,
    seed: int,
    labels: Sequence[str] | None = None,
) -> dict[str, float | int]:
    """How much of the codebook pictures of held-out combinations use; these are encoded only."""
    import torch

    from v2flow_engine.evaluation.calibration import true_pictures
    from v2flow_engine.evaluation.depictions import choose_depictions
    from v2flow_engine.evaluation.metrics import codebook_statistics

    asked = choose_depictions(artwork, "heldout_combination", number, seed, labels)
    codes = []
    for start in range(0, len(asked), CHUNK):
        originals = true_pictures(artwork, asked[start : start + CHUNK])
        codes += tokenizer.encode([Image.fromarray(picture) for picture in originals])
    return codebook_statistics(
        torch.cat([each.codes for each in codes]), tokenizer.folder.vocabulary.codebook_size
    )


def judged_top1(
    artwork: Artwork, asked: Sequence[Depiction], emoji: Sequence[Comparison]
) -> dict[str, float | None]:
    """How often a reconstruction still shows the right emoji: the ceiling of `v2flow eval generation`."""
    from v2flow_engine.evaluation.judge import Judge
    from v2flow_engine.evaluation.scores import top

    judge = Judge(artwork)
    return {
        "autoencoder_top1": top(judge.judge([each.by_autoencoder for each in emoji], asked), 1),
        "tokenizer_top1": top(judge.judge([each.by_tokenizer for each in emoji], asked), 1),
    }


def report(
    emoji: Sequence[Comparison],
    photos: Sequence[Comparison],
    judged: dict[str, float | None],
    usage: dict[str, float | int],
    setup: dict[str, Any],
) -> None:
    """Print the table, and the document on the last line."""
    from v2flow_engine.evaluation.comparison import METRICS, by_kind, mean_metrics

    parts = {**by_kind(emoji), **{each.name: mean_metrics([each]) for each in photos}}
    averages = {"all held-out pictures": mean_metrics(emoji), "all photographs": mean_metrics(photos)}
    rows = [[name, *(values[metric] for metric in METRICS)] for name, values in (parts | averages).items()]
    print(format_table(["PSNR in dB, SSIM", *METRICS], rows))
    print()
    print(
        format_table(
            ["reconstructions judged, codebook", ""],
            [[name, value] for name, value in (judged | usage).items()],
        )
    )
    print()
    document = {
        "command": "eval reconstruction",
        **mean_metrics(emoji),
        **{f"photo_{name}": value for name, value in mean_metrics(photos).items()},
        **usage,
        **judged,
        "parts": parts,
        "setup": setup,
    }
    print(last_line(document), flush=True)


def write_sheets(folder: Path, emoji: Sequence[Comparison], photos: Sequence[Comparison]) -> list[Path]:
    """reconstruction.png and .html: photographs, held-out pictures as they come, best and worst."""
    from v2flow_engine.evaluation.sheets import Row, write_sheet

    def row(each: Comparison) -> Row:
        first, second = each.metrics["autoencoder_psnr"], each.metrics["tokenizer_psnr"]
        found = f"autoencoder {first:.1f} dB, tokenizer {second:.1f} dB"
        return Row([each.original, each.by_autoencoder, each.by_tokenizer], [each.name, found])

    order = sorted(emoji, key=lambda each: each.metrics["tokenizer_psnr"])
    sections = {
        "photographs": [row(each) for each in photos],
        "held-out pictures, as they come": [row(each) for each in emoji[:SHEET_ROWS]],
        "best": [row(each) for each in reversed(order[-SHEET_ROWS:])],
        "worst": [row(each) for each in order[:SHEET_ROWS]],
    }
    columns = ["original", "autoencoder", "tokenizer"]
    return write_sheet(folder, "reconstruction", "Originals and reconstructions", columns, sections)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
