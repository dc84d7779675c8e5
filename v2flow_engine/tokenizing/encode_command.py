"""`v2flow encode`: images -> their visual tokens, in a Parquet file."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from v2flow_engine.tokenizing.options import add_images, add_model_options, checked_fitting, checked_model

if TYPE_CHECKING:
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer
    from v2flow_engine.tokenizing.batches import FittedImage
    from v2flow_engine.tokenizing.codes_file import EncodedImage

HELP = (
    "Encode images into visual tokens: a Parquet file with a row for each, which `v2flow reconstruct` reads."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_model_options(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the Parquet file to write")
    add_images(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if some images could not be read. Raises `V2FlowError`."""
    from v2flow_engine.files import check_file
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer
    from v2flow_engine.offline.progress import Progress
    from v2flow_engine.tokenizing.batches import ImageReader
    from v2flow_engine.tokenizing.codes_file import open_codes_file
    from v2flow_engine.tokenizing.sources import find_images

    folder = checked_model(args)
    reader = ImageReader(checked_fitting(args, folder), args.batch_size)
    sources = find_images(args.images)
    check_file(args.out)
    tokenizer = ImageTokenizer.from_folder(folder, batch_size=args.batch_size)
    with Progress(len(sources), 0, sys.stderr) as progress, open_codes_file(args.out) as codes_file:
        for batch in reader.batches(sources):
            codes_file.write(encode_batch(tokenizer, batch))
            for _ in batch:
                progress.advance()
    size = reader.fitting.size
    print(
        f"wrote {args.out}: {codes_file.rows} image{'s' * (codes_file.rows != 1)} of {size}, "
        f"{math.prod(folder.grid_of(size))} codes each"
    )
    return reader.report()


def encode_batch(tokenizer: ImageTokenizer, batch: list[FittedImage]) -> list[EncodedImage]:
    """Fitted images -> their rows."""
    from v2flow_engine.tokenizing.codes_file import EncodedImage

    codes = tokenizer.encode([each.picture for each in batch], size=batch[0].origin.size)
    model = tokenizer.folder.config.name
    return [
        EncodedImage(each.origin, own.codes.tolist(), model, tokenizer.codebook_digest)
        for each, own in zip(batch, codes, strict=True)
    ]
