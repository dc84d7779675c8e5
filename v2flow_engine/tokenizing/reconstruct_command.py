"""`v2flow reconstruct`: images, or codes of `v2flow encode` -> what the tokenizer keeps of them, beside the originals.

    original | autoencoder alone | whole tokenizer

The autoencoder alone is the best that the tokenizer could do. From codes there is only the last of the three.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import RequestError
from v2flow_engine.tokenizing.options import (
    add_decoder_options,
    add_images,
    add_model_options,
    checked_decoder_settings,
    checked_fitting,
    checked_model,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from v2flow_engine.checkpoint import TokenizerFolder
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer, Reconstruction
    from v2flow_engine.tokenizing.batches import FittedImage
    from v2flow_engine.tokenizing.codes_file import EncodedImage
    from v2flow_engine.tokenizing.output import PictureFolder

HELP = "Encode images and decode them again: pictures, a manifest with their PSNR, and a sheet to compare."
COLUMNS = ("original", "autoencoder alone", "whole tokenizer")
TITLE = "Originals and reconstructions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_model_options(parser)
    parser.add_argument(
        "--codes", type=Path, metavar="FILE", help="a file of v2flow encode, in place of images"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    add_images(parser, nargs="*")
    add_decoder_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if some images could not be read. Raises `V2FlowError`."""
    from v2flow_engine.tokenizing.output import check_new_folder

    if bool(args.images) == bool(args.codes):
        raise RequestError(f"expected images or --codes, got {'both' if args.codes else 'neither'}")
    folder = checked_model(args)
    check_new_folder(args.out)
    return from_codes(args, folder) if args.codes else from_images(args, folder)


def from_images(args: argparse.Namespace, folder: TokenizerFolder) -> int:
    """All three columns; picture k of those named is decoded with `seed + k`."""
    from v2flow_engine.generation.image_request import give_seeds
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer
    from v2flow_engine.offline.progress import Progress
    from v2flow_engine.tokenizing.batches import ImageReader
    from v2flow_engine.tokenizing.output import PictureFolder
    from v2flow_engine.tokenizing.sources import find_images

    fitting = checked_fitting(args, folder)
    settings = checked_decoder_settings(args, folder, fitting.size)
    reader = ImageReader(fitting, args.batch_size)
    sources = find_images(args.images)
    seeds = give_seeds(args.seed, len(sources))
    tokenizer = ImageTokenizer.from_folder(folder, batch_size=args.batch_size)
    parameters = tokenizer.describe(fitting.size, **settings)
    out = PictureFolder(args.out, "reconstruct", COLUMNS)
    with Progress(len(sources), 0, sys.stderr) as progress:
        for batch in reader.batches(sources):
            made = tokenizer.reconstruct(
                [each.picture for each in batch],
                seeds=[seeds[each.origin.id] for each in batch],
                size=fitting.size,
                **settings,
            )
            for image, reconstruction in zip(batch, made, strict=True):
                write_reconstruction(out, image, reconstruction, parameters)
                progress.advance()
    print(f"reconstructed {out.written} of {len(sources)}; see {out.write_sheet(TITLE, out.written)}")
    return reader.report()


def from_codes(args: argparse.Namespace, folder: TokenizerFolder) -> int:
    """The last column alone; the row with id k is decoded with `seed + k`, as the image was that it came from."""
    from v2flow_engine.generation.image_request import give_seeds
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer
    from v2flow_engine.offline.progress import Progress
    from v2flow_engine.tokenizing.codes_file import check_codes, read_codes_file
    from v2flow_engine.tokenizing.output import PictureFolder

    given = [name for name in ("size", "fit", "pad_color") if getattr(args, name) is not None]
    if given:
        raise RequestError(
            f"--{given[0].replace('_', '-')} is for images; codes have the size they were made with"
        )
    rows = read_codes_file(args.codes)
    all_seeds = give_seeds(args.seed, max(row.origin.id for row in rows) + 1)
    sizes = sorted({row.origin.size for row in rows})
    settings = checked_decoder_settings(args, folder, *sizes)
    tokenizer = ImageTokenizer.from_folder(folder, batch_size=args.batch_size)
    check_codes(rows, folder, tokenizer.codebook_digest, args.codes)
    parameters = {size: tokenizer.describe(size, **settings) for size in sizes}
    out = PictureFolder(args.out, "reconstruct", COLUMNS[-1:])
    with Progress(len(rows), 0, sys.stderr) as progress:
        for start in range(0, len(rows), args.batch_size):
            batch = rows[start : start + args.batch_size]
            seeds = [all_seeds[row.origin.id] for row in batch]
            pictures = decode_rows(tokenizer, batch, seeds, settings)
            for row, seed, picture in zip(batch, seeds, pictures, strict=True):
                out.write(picture, row.origin, seed, parameters[row.origin.size])
                out.show([picture], [Path(row.origin.path).name])
                progress.advance()
    print(f"decoded {out.written} of {len(rows)}; see {out.write_sheet('Reconstructions', out.written)}")
    return 0


def decode_rows(
    tokenizer: ImageTokenizer, rows: Sequence[EncodedImage], seeds: Sequence[int], settings: dict[str, Any]
) -> list[Image.Image]:
    """Rows of a codes file -> pictures."""
    import torch

    from v2flow_engine.generation.image_tokenizer import ImageCodes

    codes = [ImageCodes(torch.tensor(row.codes), row.origin.size) for row in rows]
    return tokenizer.decode(codes, seeds=seeds, **settings)


def write_reconstruction(
    out: PictureFolder, image: FittedImage, made: Reconstruction, parameters: dict[str, Any]
) -> None:
    """The picture, its PSNR against the fitted original, and a row of the sheet."""
    import math

    import torch

    from v2flow_engine.generation.image_tokenizer import to_pixels
    from v2flow_engine.training.pictures import psnr

    both = torch.cat([to_pixels([made.by_autoencoder]), to_pixels([made.by_tokenizer])])
    found = psnr(both, to_pixels([made.original])).tolist()
    # JSON has no infinity, which is what equal pictures have.
    by_autoencoder, by_tokenizer = (round(value, 4) if math.isfinite(value) else None for value in found)
    out.write(
        made.by_tokenizer,
        image.origin,
        made.seed,
        parameters,
        autoencoder_psnr=by_autoencoder,
        tokenizer_psnr=by_tokenizer,
    )
    out.show(
        [made.original, made.by_autoencoder, made.by_tokenizer],
        [Path(image.origin.path).name, f"autoencoder {found[0]:.1f} dB, tokenizer {found[1]:.1f} dB"],
    )
