"""`v2flow convert official`: a checkpoint of the reference training code -> a folder that encodes and reconstructs."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = (
    "Turn a checkpoint of the reference V2Flow training code into a visual tokenizer of this project. The folder gets "
    "config.json (the reference's rounds, steps and guidance as the model's defaults), visual_tokenizer/, and vae/ if "
    "--vae is given. It encodes and reconstructs pictures and does not generate: the reference has no LLM to convert. "
    "`v2flow train llm --tokenizer DIR/visual_tokenizer --vae DIR/vae` trains one. Without --vae it has no pixels "
    "either, only latents."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .pth with model and model_ema, loaded without running code from it; or a .safetensors",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML or JSON with the options of the reference's training command (model, img_size, flow_method, ...) "
        "where they were not its defaults, and for shapes without a preset encoder_embed_dim, encoder_depth, "
        "encoder_num_heads and the same with decoder_; needed if the checkpoint does not keep its own (args)",
    )
    parser.add_argument(
        "--llm-vocabulary",
        type=Path,
        metavar="FILE",
        help="the LLM's embedding that it was trained with (.pth or .safetensors), if the checkpoint has none",
    )
    parser.add_argument(
        "--weights",
        choices=("ema", "model"),
        help="which of a .pth: the moving average (default), or the last, which the reference itself evaluates",
    )
    parser.add_argument(
        "--vae",
        type=Path,
        metavar="DIR",
        help="the diffusers AutoencoderDC folder that it was trained with, to copy",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")


def run(args: argparse.Namespace) -> int:
    """Read, convert, and say what became of each weight. Raises `V2FlowError`."""
    from v2flow_engine.training.official.checkpoint import read_checkpoint, read_embedding
    from v2flow_engine.training.official.convert import convert, describe
    from v2flow_engine.training.official.options import read_options

    checkpoint = read_checkpoint(args.checkpoint, args.weights)
    options = read_options(args.config, checkpoint.args)
    vocabulary = None if args.llm_vocabulary is None else read_embedding(args.llm_vocabulary)
    conversion = convert(checkpoint, options, vocabulary, args.vae, args.out)
    print(f"weights  {checkpoint.which} of {args.checkpoint}")
    print(*describe(conversion), sep="\n")
    print(f"wrote    {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")
    print(
        "It encodes and reconstructs; it has no LLM and does not generate."
        if args.vae is not None
        else "It has no autoencoder (--vae) and no LLM: codes and latents only."
    )
    return 0
