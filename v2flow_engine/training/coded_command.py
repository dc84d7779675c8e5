"""`v2flow data codes`: pictures -> codes and records, to train an LLM where the pictures are not."""

from __future__ import annotations

import argparse
from pathlib import Path

from v2flow_engine.errors import DataError

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

    from v2flow_engine.files import whole_folder
    from v2flow_engine.generation.pipeline import default_device
    from v2flow_engine.training.coded import SPLITS, Coded, tokenizer_digest, write_coded
    from v2flow_engine.training.latents import cached_codes, cached_latents
    from v2flow_engine.training.llm_data import load_trained_tokenizer
    from v2flow_engine.training.picture_options import read_pictures
    from v2flow_engine.training.pictures import Pictures
    from v2flow_engine.training.ranks import Ranks

    for name in ("vae", "tokenizer"):
        if not getattr(args, name).is_dir():
            raise DataError(f"--{name} must be an existing folder, got {getattr(args, name)}")
    device = torch.device(args.device or default_device())
    ranks, digest = Ranks(device), tokenizer_digest(args.tokenizer)

    def coded(split: str, pictures: Pictures) -> Coded:
        latents = cached_latents(pictures, args.vae, ranks, bf16=False)
        codes = cached_codes(latents, tokenizer, args.vae, ranks).to(torch.int32)
        print(f"{split} {pictures.size}: {len(codes)} pictures of {codes.shape[1]} codes", flush=True)
        return Coded(pictures.size, codes, pictures.records)

    with whole_folder(args.out) as building:
        tokenizer = load_trained_tokenizer(args.tokenizer, device)
        read = zip(SPLITS, read_pictures(args, ranks), strict=True)
        splits = {split: [coded(split, pictures) for pictures in sets] for split, sets in read}
        write_coded(building, splits, tokenizer.config.codebook_size, digest)
    return 0
