"""`v2flow convert llm`: a plain LLaMA or Phi-3 gets visual tokens; or one architecture becomes the other."""

from __future__ import annotations

import argparse
from pathlib import Path

from v2flow_engine.errors import DataError
from v2flow_engine.llm_config import ARCHITECTURES

HELP = (
    "With --base: add control and visual tokens to a plain LLaMA or Phi-3 and write it as an llm/ folder, which vLLM "
    "and transformers load, ready to be trained. With --model: rewrite the LLM of a model folder, or an llm/ folder, "
    "as the other architecture, which computes the same. Files of weights are converted one by one."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model", metavar="NAME|DIR", help="an embedded model, a model folder or an llm/ folder"
    )
    source.add_argument(
        "--base",
        type=Path,
        metavar="DIR|GGUF",
        help="a checkpoint as transformers saves it, in safetensors; or a .gguf file, which needs `pip install gguf`, "
        "becomes float16, and is in memory as a whole",
    )
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), help="with --model: what the LLM becomes")
    parser.add_argument(
        "--visual-tokenizer",
        type=Path,
        metavar="DIR",
        help="with --base: the visual_tokenizer/ folder, or the model folder that it is in; its code_dim must be the "
        "LLM's hidden_size",
    )
    parser.add_argument(
        "--size",
        nargs="+",
        metavar="WxH",
        help="with --base: sizes of pictures in pixels, the largest taking the whole grid of tokens; without it, those "
        "of the model folder that the visual tokenizer is in",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")


def run(args: argparse.Namespace) -> int:
    """Convert and say what was made. Raises `V2FlowError`."""
    from v2flow_engine.converting.change import change_architecture
    from v2flow_engine.converting.extend import add_visual_tokens

    mode, options = ("model", ("arch",)) if args.model is not None else ("base", ("visual_tokenizer", "size"))
    for name in ("arch", "visual_tokenizer", "size"):
        option = "--" + name.replace("_", "-")
        if getattr(args, name) is not None and name not in options:
            raise DataError(f"{option} does not go with --{mode}")
        if getattr(args, name) is None and name in options and name != "size":
            raise DataError(f"--{mode} needs {option}")
    if mode == "model":
        change_architecture(args.model, args.arch, args.out)
        print(f"wrote    {args.out}: {args.model}, its LLM as {args.arch}")
        return 0
    vocabulary = add_visual_tokens(args.base, args.visual_tokenizer, args.size, args.out)
    first, size = vocabulary.visual_offset, vocabulary.codebook_size
    print(f"text     ids 0 to {vocabulary.text_vocab_size - 1}, as they were")
    print(f"control  {vocabulary.text_vocab_size} to {first - 1}: {', '.join(vocabulary.grids)}")
    print(f"visual   {first} to {first + size - 1}, from the codebook")
    print(f"wrote    {args.out}")
    return 0
