"""`v2flow data text`: an LLM writes text by itself, which `train llm --text` then keeps as likely as it was.

Text drawn from the LLM at temperature 1 is what training on it changes least: its cross-entropy is lowest where nothing
was forgotten. So no data of others is needed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from v2flow_engine.errors import ModelFolderError, OutputError, RequestError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

HELP = "Let an LLM write texts by itself, each from a word drawn at random: what v2flow train llm --text is to keep."
SHORTEST_WORD = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--llm", type=Path, required=True, metavar="DIR", help="a plain LLM (v2flow fetch smollm2)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .jsonl file")
    parser.add_argument("--n", type=int, default=1000, metavar="N", help="texts (%(default)s)")
    parser.add_argument("--tokens", type=int, default=192, help="of a text at most (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="texts at a time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write the file whole or not at all. Raises `V2FlowError`."""
    from v2flow_engine.files import check_file, told_as_output_error, write_whole

    for name in ("n", "tokens", "batch"):
        if getattr(args, name) < 1:
            raise RequestError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.out.suffix != ".jsonl":
        raise OutputError(f"{args.out}: expected a name that ends in .jsonl")
    if args.out.exists():
        raise OutputError(f"{args.out} is there already; choose another --out")
    check_file(args.out)
    texts = write_texts(args.llm, args.n, args.tokens, args.batch, args.seed)
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    with told_as_output_error(args.out):
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(args.out, "".join(lines).encode("utf-8"))
    print(f"{args.out}: {len(lines)} texts")
    return 0


def write_texts(llm: Path, n: int, tokens: int, batch: int, seed: int) -> Iterator[str]:
    """Texts of up to `tokens` tokens, drawn at temperature 1 with transformers. Raises `ModelFolderError`."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    from v2flow_engine.generation.pipeline import default_device
    from v2flow_engine.precision import bfloat16_is_faster

    device = default_device()
    dtype = torch.bfloat16 if bfloat16_is_faster(device) else torch.float32
    try:
        tokenizer = Tokenizer.from_file(str(llm / "tokenizer.json"))
        model = AutoModelForCausalLM.from_pretrained(llm, dtype=dtype, local_files_only=True).eval()
    except Exception as error:  # a missing file, an unreadable one, another architecture: each its own type
        raise ModelFolderError(f"{llm}: not an LLM that transformers loads ({error})") from error
    model.to(device)
    torch.manual_seed(seed)
    words = first_words(tokenizer)
    for start in range(0, n, batch):
        drawn = words[torch.randint(len(words), (min(batch, n - start), 1))].to(model.device)
        with torch.inference_mode():
            written = model.generate(
                drawn,
                attention_mask=torch.ones_like(drawn),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max(1, tokens - 1),
            )
        for row in written.tolist():
            yield tokenizer.decode(row, skip_special_tokens=True).strip()


def first_words(tokenizer: Tokenizer) -> torch.Tensor:
    """(n,) ids of pieces of `SHORTEST_WORD` letters or more and nothing else. Raises `ModelFolderError` for none."""
    import torch

    ids = [
        id_
        for piece, id_ in sorted(tokenizer.get_vocab().items())
        if len(word := piece.lstrip("Ġ▁")) >= SHORTEST_WORD and word.isascii() and word.isalpha()
    ]
    if not ids:
        raise ModelFolderError(f"the LLM's tokenizer has no token of {SHORTEST_WORD} letters or more")
    return torch.tensor(ids)
