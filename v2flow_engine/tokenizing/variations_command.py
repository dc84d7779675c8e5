"""`v2flow variations`: images -> several pictures of each one's tokens, every one with noise of its own.

What stays the same is what the tokens say; what differs is what the decoder makes up.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.tokenizing.options import (
    add_decoder_options,
    add_images,
    add_model_options,
    checked_decoder_settings,
    checked_fitting,
    checked_model,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

    from v2flow_engine.generation.image_tokenizer import ImageTokenizer
    from v2flow_engine.tokenizing.batches import FittedImage

HELP = "Encode images and decode each one's tokens several times, with other noise: pictures, a manifest, a sheet."
SHEET_VARIATIONS = 16  # in a row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_model_options(parser)
    parser.add_argument("--n", type=int, default=4, help="variations of each image (%(default)s)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    add_images(parser)
    add_decoder_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if some images could not be read. Raises `V2FlowError`.

    Variation v of image k (counted among those named) has the seed `seed + k n + v`.
    """
    from v2flow_engine.generation.image_request import give_seeds
    from v2flow_engine.generation.image_tokenizer import MAX_VARIATIONS, ImageTokenizer
    from v2flow_engine.generation.limits import check_whole
    from v2flow_engine.offline.progress import Progress
    from v2flow_engine.tokenizing.batches import ImageReader
    from v2flow_engine.tokenizing.output import PictureFolder, check_new_folder
    from v2flow_engine.tokenizing.sources import find_images

    n = check_whole("--n", args.n, 1, MAX_VARIATIONS)
    folder = checked_model(args)
    fitting = checked_fitting(args, folder)
    settings = checked_decoder_settings(args, folder, fitting.size)
    # As many images as have all their variations in one batch of the decoder.
    reader = ImageReader(fitting, max(1, args.batch_size // n))
    sources = find_images(args.images)
    seeds = give_seeds(args.seed, len(sources) * n)
    check_new_folder(args.out)
    tokenizer = ImageTokenizer.from_folder(folder, batch_size=args.batch_size)
    parameters = tokenizer.describe(fitting.size, **settings)
    columns = ["original", *(f"variation {v + 1}" for v in range(min(n, SHEET_VARIATIONS)))]
    out = PictureFolder(args.out, "variations", columns)
    images = 0
    with Progress(len(sources) * n, 0, sys.stderr) as progress:
        for batch in reader.batches(sources):
            shown = [[image.picture] for image in batch]
            for index, v, picture in decode_variations(tokenizer, batch, n, seeds, settings):
                origin = batch[index].origin
                number = origin.id * n + v
                out.write(
                    picture, origin, seeds[number], parameters, number=number, image=origin.id, variation=v
                )
                if v < SHEET_VARIATIONS:
                    shown[index].append(picture)
                progress.advance()
            for image, pictures in zip(batch, shown, strict=True):
                out.show(pictures, [Path(image.origin.path).name])
            images += len(batch)
    sheet = out.write_sheet("Variations: the same tokens, other noise", images)
    print(f"{n} variations of {images} of {len(sources)} images; see {sheet}")
    return reader.report()


def decode_variations(
    tokenizer: ImageTokenizer,
    batch: Sequence[FittedImage],
    n: int,
    seeds: Sequence[int],
    settings: dict[str, Any],
) -> Iterator[tuple[int, int, Image.Image]]:
    """(index in the batch, variation, picture), image by image, decoded a batch of the tokenizer at a time."""
    codes = tokenizer.encode([image.picture for image in batch], size=batch[0].origin.size)
    asked = [(index, v) for index in range(len(batch)) for v in range(n)]
    for start in range(0, len(asked), tokenizer.batch_size):
        chunk = asked[start : start + tokenizer.batch_size]
        own = [seeds[batch[index].origin.id * n + v] for index, v in chunk]
        pictures = tokenizer.decode([codes[index] for index, _ in chunk], seeds=own, **settings)
        for (index, v), picture in zip(chunk, pictures, strict=True):
            yield index, v, picture
