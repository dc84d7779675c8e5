"""`v2flow convert adapters`: what `train llm --set lora.rank=R` left -> a folder without the base LLM's weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from v2flow_engine.errors import RequestError

HELP = (
    "Put trained adapters, their visual tokenizer and a recipe into a small model folder, which is completed with a "
    "pretrained LLM (v2flow fetch) and an embedded model's autoencoder when it is first used."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="of v2flow train llm --set lora.rank=R"
    )
    parser.add_argument("--visual-tokenizer", type=Path, required=True, metavar="DIR")
    parser.add_argument("--base", default="smollm2", choices=["smollm2"], help="(%(default)s)")
    parser.add_argument("--vae", default="v2flow-emoji", metavar="NAME", help="embedded model (%(default)s)")
    parser.add_argument("--name", required=True, help="of the model")
    parser.add_argument(
        "--size",
        nargs="+",
        metavar="WxH",
        help="keep these sizes, the first as default (all that the LLM has)",
    )
    parser.add_argument(
        "--longest",
        type=int,
        metavar="N",
        help="the most tokens of a sequence, for which engines set memory aside (the base's)",
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help="of the adapters: below 1 the LLM knows text better, and draws less well (%(default)s)",
    )
    parser.add_argument(
        "--model-config", type=Path, metavar="FILE", help="YAML: its default generation parameters"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")


def run(args: argparse.Namespace) -> int:
    """Write the folder. Raises `V2FlowError`."""
    from v2flow_engine.checkpoint import embedded_models
    from v2flow_engine.config import ModelConfig
    from v2flow_engine.converting.adapted import write_adapted
    from v2flow_engine.files import mebibytes
    from v2flow_engine.training.settings import DEFAULTS, load_settings

    if args.vae not in embedded_models():
        raise RequestError(f"--vae {args.vae}: expected one of {', '.join(embedded_models())}")
    grids = write_adapted(
        args.run,
        args.visual_tokenizer,
        args.base,
        args.vae,
        args.size,
        args.longest,
        args.strength,
        lambda size: load_settings(
            ModelConfig,
            args.model_config or DEFAULTS / "model.yaml",
            [f"name={args.name}", f"default_size={size}"],
        )[0],
        args.out,
    )
    print(f"wrote    {args.out}: {', '.join(grids)}, {mebibytes(args.out):.1f} MiB")
    return 0
