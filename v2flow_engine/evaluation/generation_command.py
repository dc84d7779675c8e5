"""`v2flow eval generation`: prompts -> pictures -> verdicts -> a table and one JSON document.

Half of the prompts ask for combinations that were trained, half for combinations held out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.config import SOLVERS, parse_size
from v2flow_engine.errors import RequestError
from v2flow_engine.evaluation.report import format_table, last_line, machine
from v2flow_engine.guidance import SCHEDULES

if TYPE_CHECKING:
    import numpy as np

    from v2flow_engine.evaluation.depictions import Depiction
    from v2flow_engine.evaluation.judge import Judge, Verdict

HELP = "Generate pictures for prompts and judge whether they show the right emoji, background and count."
PARAMETERS = (
    "guidance_scale",
    "guidance_schedule",
    "temperature",
    "top_k",
    "rounds",
    "flow_steps",
    "decoder_guidance",
    "decoder_temperature",
    "solver",
    "size",
)
SHEET_ROWS = 24
PARTS = ("n", "top1", "top5", "background", "count", "all_right", "similarity")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--model", default="v2flow-emoji", metavar="NAME|DIR", help="(%(default)s)")
    parser.add_argument(
        "--packages", type=Path, metavar="DIR", help="emoji tarballs, in place of the network"
    )
    parser.add_argument(
        "--prompts", type=int, default=500, metavar="N", help="half of them held out (%(default)s)"
    )
    parser.add_argument(
        "--emoji",
        default="common",
        metavar="all|common|FILE",
        help="which to ask for: what the model was trained to draw; judged against all (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of choice and pictures (%(default)s)")
    add_generation_options(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write sheets: generated, reference")


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """Declare `PARAMETERS`, each None where it is not given."""
    parser.add_argument("--guidance", dest="guidance_scale", type=float, metavar="G", help="of the LLM")
    parser.add_argument(
        "--guidance-schedule",
        choices=SCHEDULES,
        help="linear: guidance grows from 1 over the image's tokens",
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="of the LLM; 0 is greedy")
    parser.add_argument("--top-k", type=int, metavar="K", help="of the LLM; 0 is all")
    parser.add_argument("--rounds", type=int, metavar="R", help="of the decoder")
    parser.add_argument("--flow-steps", type=int, metavar="F", help="of the decoder, in each round")
    parser.add_argument("--decoder-guidance", type=float, metavar="G", help="1 is none")
    parser.add_argument("--decoder-temperature", type=float, metavar="T", help="of the decoder's noise")
    parser.add_argument("--solver", choices=SOLVERS, help="of the decoder's velocity field")
    parser.add_argument("--size", metavar="WxH", help="what is not given is the model's own default")


def run(args: argparse.Namespace) -> int:
    """Choose, generate, judge, report."""
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.evaluation.artwork import load_artwork
    from v2flow_engine.evaluation.cache import make_folder
    from v2flow_engine.evaluation.calibration import calibrate
    from v2flow_engine.evaluation.depictions import choose_depictions
    from v2flow_engine.evaluation.judge import Judge
    from v2flow_engine.generation.parameters import GenerationParameters
    from v2flow_engine.training.emoji.catalogue import read_labels

    if args.prompts < 2:
        raise RequestError(f"--prompts must be at least 2, got {args.prompts}")
    overrides = {name: getattr(args, name) for name in PARAMETERS}
    # A mistake is told before any work.
    size = GenerationParameters.resolve(open_model(args.model), **overrides).size
    counts = judged_counts(size)
    labels = read_labels(args.emoji)
    if args.out is not None:
        make_folder(args.out)
    artwork = load_artwork(args.packages)
    held_out = args.prompts // 2
    asked = choose_depictions(artwork, "train", args.prompts - held_out, args.seed, labels, counts)
    asked += choose_depictions(artwork, "heldout_combination", held_out, args.seed, labels, counts)
    pictures, timing = generate(args.model, [each.prompt for each in asked], args.seed, overrides)
    say("judging")
    judge = Judge(artwork)
    verdicts = judge.judge(pictures, asked)
    calibration = calibrate(judge, asked, args.seed)
    if args.out is not None:
        paths = write_sheets(args.out, judge, asked, pictures, verdicts)
        print(*(f"wrote {path}" for path in paths), sep="\n")
    report(verdicts, calibration, {**timing, "seed": args.seed, "prompts": args.prompts, "emoji": args.emoji})
    return 0


def judged_counts(size: str) -> Sequence[int]:
    """How many copies to ask for in pictures of this size. Raises `RequestError` for one that is not square."""
    from v2flow_engine.training.emoji.compose import ARRANGEMENTS, COUNTS

    width, height = parse_size(size)
    if width != height:
        raise RequestError(f"only square pictures can be judged, not {size}")
    return tuple(ARRANGEMENTS.get(size, COUNTS))


def generate(
    model: str, prompts: Sequence[str], seed: int, overrides: dict[str, Any], samples: int = 1
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Prompts -> `samples` pictures (H, W, 3) uint8 of each, and with what and how fast they were made."""
    import numpy as np

    from v2flow_engine.generation.pipeline import Pipeline, default_device

    say(f"loading {model}")
    start = time.perf_counter()
    with Pipeline.from_pretrained(model) as pipeline:
        loaded = time.perf_counter()
        say(f"generating {len(prompts) * samples} pictures")
        made = pipeline.generate(list(prompts), n=samples, seed=seed, **overrides)
        seconds = time.perf_counter() - loaded
    timing = {
        "parameters": made[0].parameters,
        "hardware": machine(default_device()),
        "load_seconds": round(loaded - start, 2),
        "seconds": round(seconds, 2),
        "images_per_second": round(len(made) / seconds, 3),
    }
    return [np.asarray(each.image.convert("RGB")) for each in made], timing


def report(verdicts: Sequence[Verdict], calibration: dict[str, Any], setup: dict[str, Any]) -> None:
    """Print the tables, and the document on the last line."""
    from v2flow_engine.evaluation.scores import by, generation_scores

    seen = [v for v in verdicts if v.asked.split == "train"]
    heldout = [v for v in verdicts if v.asked.split == "heldout_combination"]
    parts = {
        **{f"split {name}": row for name, row in by(verdicts, lambda v: v.asked.split).items()},
        **{f"style {name}": row for name, row in by(verdicts, lambda v: v.asked.style).items()},
        **{f"count {name}": row for name, row in by(verdicts, lambda v: v.asked.count).items()},
        **{f"background {name}": row for name, row in by(verdicts, lambda v: v.asked.background).items()},
    }
    judged = {f"judge on {name} references": row for name, row in calibration.items()}
    rows = [[name, *(row[part] for part in PARTS)] for name, row in (parts | judged).items()]
    print(format_table(["", *PARTS], rows))
    scores = generation_scores(seen, heldout)
    print()
    print(format_table(["share of pictures", ""], [[name, value] for name, value in scores.items()]))
    print()
    document = {
        "command": "eval generation",
        **scores,
        "reader_count_accuracy_on_references": calibration["true"]["count"],
        "reader_background_accuracy_on_references": calibration["true"]["background"],
        "judge_top1_on_noisy_references": calibration["noisy"]["top1"],
        "calibration": calibration,
        "parts": parts,
        "setup": setup,
    }
    print(last_line(document), flush=True)


def write_sheets(
    folder: Path,
    judge: Judge,
    asked: Sequence[Depiction],
    pictures: Sequence[np.ndarray],
    verdicts: Sequence[Verdict],
) -> list[Path]:
    """generation.png and generation.html: pictures beside their references, as they come, best and worst."""
    from v2flow_engine.evaluation.calibration import true_pictures
    from v2flow_engine.evaluation.sheets import Row, write_sheet

    true = true_pictures(judge.artwork, asked)
    rows = [
        Row([picture, reference], [verdict.asked.prompt, *_findings(judge, verdict)])
        for picture, reference, verdict in zip(pictures, true, verdicts, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda index: verdicts[index].similarity)
    heldout = [index for index, each in enumerate(asked) if each.split == "heldout_combination"]
    sections = {
        "trained combinations, as they come": rows[:SHEET_ROWS],
        "held-out combinations, as they come": [rows[index] for index in heldout[:SHEET_ROWS]],
        "nearest to the reference": [rows[index] for index in reversed(order[-SHEET_ROWS:])],
        "farthest from the reference": [rows[index] for index in order[:SHEET_ROWS]],
    }
    title = "Generated pictures and what was asked for"
    return write_sheet(folder, "generation", title, ["generated", "reference"], sections)


def _findings(judge: Judge, verdict: Verdict) -> list[str]:
    """What the judge saw, in two lines."""
    if verdict.rank == 0:
        emoji = "right emoji"
    else:
        labels = {each.hexcode: each.label for each in judge.artwork.emoji}
        emoji = f"emoji: rank {verdict.rank + 1}, nearest is {labels[verdict.nearest]}"
    return [f"{emoji} ({verdict.similarity:.2f})", f"read: {verdict.count} on {verdict.background}"]


def say(line: str) -> None:
    """Tell progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
