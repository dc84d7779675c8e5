"""`v2flow data codes`: pictures -> codes and records, to train an LLM where the pictures are not."""

from __future__ import annotations

import argparse
from pathlib import Path

from v2flow_engine.errors import DataError, OutputError

HELP = (
    "Encode pictures once, with a trained autoencoder and visual tokenizer, into a folder that v2flow train llm takes "
    "as its --data: a few bytes for each picture in place of its pixels."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    from v2flow_engine.training.picture_options import add_picture_arguments

    add_picture_arguments(parser)
    parser.add_argument(
        "--vae", type=Path, required=True, metavar="DIR", help="folder of a trained autoencoder"
    )
    parser.add_argument(
        "--tokenizer", type=Path, required=True, metavar="DIR", help="folder of a trained visual tokenizer"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--device", help="cuda or cpu (cuda where there is one)")


def run(args: argparse.Namespace) -> int:
    """Encode all splits. Raises `V2FlowError`."""
    import torch

    from v2flow_engine.training.coded import SPLITS, Coded, finish_coded, tokenizer_digest, write_coded
    from v2flow_engine.training.latents import cached_codes, cached_latents
    from v2flow_engine.training.llm_data import load_trained_tokenizer
    from v2flow_engine.training.picture_options import read_pictures
    from v2flow_engine.training.ranks import Ranks

    for name in ("vae", "tokenizer"):
        if not getattr(args, name).is_dir():
            raise DataError(f"--{name} must be an existing folder, got {getattr(args, name)}")
    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise OutputError(f"{args.out} is there already; choose another --out")
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    ranks, digest = Ranks(device), tokenizer_digest(args.tokenizer)
    tokenizer = load_trained_tokenizer(args.tokenizer, device)
    sets_of = dict(zip(SPLITS, read_pictures(args, ranks), strict=True))
    for split, sets in sets_of.items():
        for pictures in sets:
            latents = cached_latents(pictures, args.vae, ranks, bf16=False)
            codes = cached_codes(latents, tokenizer, args.vae, ranks).to(torch.int32)
            write_coded(args.out, split, [Coded(pictures.size, codes, pictures.records)])
            print(f"{split} {pictures.size}: {len(codes)} pictures of {codes.shape[1]} codes", flush=True)
    sizes = dict.fromkeys(pictures.size for sets in sets_of.values() for pictures in sets)
    finish_coded(args.out, list(sizes), tokenizer.config.codebook_size, digest)
    return 0
