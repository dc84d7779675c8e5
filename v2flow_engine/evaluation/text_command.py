"""`v2flow eval text`: does an LLM that learnt to draw know text as well as the LLM that it was made from?

Perplexity of English, for the base, for the model, and for the model with a picture of its own in its context.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from v2flow_engine.errors import RequestError
from v2flow_engine.evaluation.generation_command import say
from v2flow_engine.evaluation.report import format_table, last_line, machine

HELP = (
    "Compare the perplexity of plain English under an LLM that draws with that under the plain LLM that it was made "
    "from: on text alone, and on the same text after a picture that the model drew. The model's probabilities are "
    "over all of its rows, visual and control ones among them, as text generation with it sees; text_rows_ratio is "
    "over text rows alone, and other_rows what the others get. A ratio of 1.05 is 5 % worse."
)
COLUMNS = ("perplexity", "ratio", "log_ratio_error", "text_rows_ratio", "other_rows")
LEAST = {"window": 2, "windows": 1, "images": 1, "batch": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME|DIR",
        help="an embedded model, a model folder or an llm/ folder",
    )
    parser.add_argument(
        "--base",
        type=Path,
        required=True,
        metavar="DIR",
        help="the plain LLaMA or Phi-3 that it was made from",
    )
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="English in UTF-8; without it, paragraphs of the documentation that comes with Python",
    )
    parser.add_argument(
        "--window", type=int, default=256, metavar="N", help="tokens, the first not scored (%(default)s)"
    )
    parser.add_argument(
        "--windows", type=int, default=100, metavar="N", help="at most, spread over the text (%(default)s)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=8,
        metavar="N",
        help="pictures, of the model's smallest size, that stand before the windows in turn (%(default)s)",
    )
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="windows at a time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Read the text, score it three times, report."""
    import torch

    from v2flow_engine.evaluation.image_context import check_room, choose_captions, draw_contexts
    from v2flow_engine.evaluation.text_models import DrawingLlm, PlainLlm, load_llm, same_text_ids
    from v2flow_engine.evaluation.text_scores import compare, score
    from v2flow_engine.evaluation.texts import cut_windows, python_prose, text_of
    from v2flow_engine.training.batches import spread

    for name, least in LEAST.items():
        if getattr(args, name) < least:
            raise RequestError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    base, model = PlainLlm.open(args.base), DrawingLlm.open(args.model)
    texts = [text_of(path) for path in args.text] if args.text else [python_prose()]
    ids = same_text_ids(base, model, texts)
    windows = cut_windows(ids, [text.source for text in texts], args.window)
    windows = windows[spread(windows, args.windows)]
    captions = choose_captions(min(args.images, len(windows)))
    if args.window > base.longest:
        raise RequestError(
            f"--window is {args.window}, and {base.folder} takes at most {base.longest} tokens"
        )
    check_room(model, captions, args.window)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    text_rows = base.vocab_size
    say(f"base: {len(windows)} windows of {args.window} tokens")
    llm = load_llm(base.folder, device)
    plain = score(llm, text_rows, windows, batch=args.batch)
    del llm
    say("model, on text alone")
    llm = load_llm(model.folder, device)
    alone = score(llm, text_rows, windows, batch=args.batch)
    say(f"model, after each of {len(captions)} pictures of {model.smallest_size}")
    contexts = draw_contexts(llm, model, captions, args.seed)
    after = score(llm, text_rows, windows, contexts, args.batch)
    setup = {
        "model": args.model,
        "base": str(args.base),
        "texts": [text.source for text in texts],
        "text_tokens": sum(map(len, ids)),
        "windows": len(windows),
        "window": args.window,
        "scored_tokens": len(windows) * (args.window - 1),
        "softmax": "all rows",
        "images": len(captions),
        "size": model.smallest_size,
        "captions": list(dict.fromkeys(captions)),
        "guidance_scale": model.defaults.guidance_scale,
        "guidance_schedule": model.defaults.guidance_schedule,
        "temperature": model.defaults.temperature,
        "seed": args.seed,
        "batch": args.batch,
        "hardware": machine(device),
    }
    report(plain.perplexity, compare(alone, plain), compare(after, plain), setup)
    return 0


def report(
    base: float, alone: dict[str, float | None], after: dict[str, float | None], setup: dict[str, Any]
) -> None:
    """Print the table, and the document on the last line."""
    table = {
        "base": {"perplexity": base},
        "model, text alone": alone,
        "model, text after an image": after,
    }
    rows = [[name, *(row.get(column) for column in COLUMNS)] for name, row in table.items()]
    print(format_table(["", *COLUMNS], rows))
    print()
    document = {
        "command": "eval text",
        "base_perplexity": base,
        **{f"alone_{name}": value for name, value in alone.items()},
        **{f"after_image_{name}": value for name, value in after.items()},
        "setup": setup,
    }
    print(last_line(document), flush=True)
