"""`v2flow eval words`: prompts in words that no training caption had -> pictures -> do they show what is meant?

A control asks for the same emoji by their labels, which captions have.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import RequestError
from v2flow_engine.evaluation.generation_command import (
    PARAMETERS,
    SHEET_ROWS,
    add_generation_options,
    generate,
    judged_counts,
    say,
)
from v2flow_engine.evaluation.report import format_table, last_line

if TYPE_CHECKING:
    import numpy as np

    from v2flow_engine.evaluation.artwork import Artwork
    from v2flow_engine.evaluation.identification import Identification
    from v2flow_engine.evaluation.judge import Judge
    from v2flow_engine.evaluation.unseen_words import Question
    from v2flow_engine.training.emoji.catalogue import Emoji

HELP = "Generate pictures for prompts in words that no training caption had, and judge whether they show what is meant."
PARTS = ("n", "top1", "top5", "top1_of_all", "top5_of_all", "similarity")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--model", default="v2flow-emoji", metavar="NAME|DIR", help="(%(default)s)")
    parser.add_argument(
        "--packages", type=Path, metavar="DIR", help="emoji tarballs, in place of the network"
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="prompt, label and kind between tabs, under a header; in place of the 200 that come along",
    )
    parser.add_argument(
        "--emoji",
        default="common",
        metavar="all|common|FILE",
        help="which the model's captions were of; judged among these, and among all (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pictures (%(default)s)")
    parser.add_argument(
        "--samples", type=int, default=1, metavar="K", help="pictures of each prompt (%(default)s)"
    )
    add_generation_options(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write sheets: generated, reference")


def run(args: argparse.Namespace) -> int:
    """Read the prompts, generate, judge, report."""
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.evaluation.artwork import load_artwork, packages_folder
    from v2flow_engine.evaluation.cache import make_folder
    from v2flow_engine.evaluation.identification import identify
    from v2flow_engine.evaluation.judge import Judge
    from v2flow_engine.evaluation.unseen_words import UNSEEN_WORDS, check_unseen, read_questions
    from v2flow_engine.generation.parameters import GenerationParameters
    from v2flow_engine.training.emoji.captions import caption_words
    from v2flow_engine.training.emoji.catalogue import read_labels, select
    from v2flow_engine.training.emoji.compose import PALETTE
    from v2flow_engine.training.emoji.wordings import add_wordings

    if args.samples < 1:
        raise RequestError(f"--samples must be at least 1, got {args.samples}")
    overrides = {name: getattr(args, name) for name in PARAMETERS}
    # A mistake is told before any work.
    judged_counts(GenerationParameters.resolve(open_model(args.model), **overrides).size)
    questions = read_questions(args.prompts or UNSEEN_WORDS)
    labels = read_labels(args.emoji)
    if args.out is not None:
        make_folder(args.out)
    artwork = load_artwork(args.packages)
    emoji = artwork.emoji if labels is None else select(artwork.emoji, labels)
    by_label = {each.label: each for each in emoji}
    # Whether or not the model's captions had wordings: what none of them says is unseen by any model.
    worded = add_wordings(emoji, packages_folder())
    vocabulary = caption_words(((each.label, (*each.tags, *each.wordings)) for each in worded), PALETTE)
    check_unseen(questions, by_label, vocabulary)

    asked = [*questions, *controls(questions)]
    prompts = [each.prompt for each in asked]
    pictures, timing = generate(args.model, prompts, args.seed, overrides, args.samples)
    say("judging")
    judge = Judge(artwork)
    candidates = {each.hexcode for each in emoji}
    asked = [each for each in asked for _ in range(args.samples)]
    meant = [by_label[each.label] for each in asked]
    found = identify(judge, pictures, [each.hexcode for each in meant], candidates)
    true, true_hexcodes = references_of(artwork, meant)
    calibration = identify(judge, true, true_hexcodes, candidates)
    if args.out is not None:
        paths = write_sheets(args.out, judge, asked, pictures, found, args.samples)
        print(*(f"wrote {path}" for path in paths), sep="\n")
    numbers = {
        "prompts": len(questions),
        "labels": len({each.label for each in questions}),
        "candidates": len(candidates),
        "all_emoji": len({hexcode for hexcode, _ in artwork.sprites}),
        "samples": args.samples,
        "seed": args.seed,
        "emoji": args.emoji,
    }
    report(asked, found, calibration, {**timing, **numbers})
    return 0


def controls(questions: Sequence[Question]) -> list[Question]:
    """The labels of the questions, each once and in their order, asked for by themselves."""
    from v2flow_engine.evaluation.unseen_words import Question

    return [Question(label, label, "label", "") for label in dict.fromkeys(each.label for each in questions)]


def references_of(artwork: Artwork, emoji: Sequence[Emoji]) -> tuple[list[np.ndarray], list[str]]:
    """True pictures of each emoji in each of its styles, on the palette's colours in turn; their hex codes."""
    from v2flow_engine.training.emoji.compose import PALETTE

    drawn = [(each.hexcode, style) for each in dict.fromkeys(emoji) for style in each.styles]
    names = list(PALETTE)
    pictures = [
        artwork.picture(hexcode, style, names[index % len(names)], 1)
        for index, (hexcode, style) in enumerate(drawn)
    ]
    return pictures, [hexcode for hexcode, _ in drawn]


def part_scores(found: Sequence[Identification]) -> dict[str, float | int | None]:
    """Shares of pictures whose right emoji is the nearest, or among the five nearest, of the candidates and of all."""
    from v2flow_engine.evaluation.scores import share

    return {
        "n": len(found),
        "top1": share([each.rank < 1 for each in found]),
        "top5": share([each.rank < 5 for each in found]),
        "top1_of_all": share([each.rank_of_all < 1 for each in found]),
        "top5_of_all": share([each.rank_of_all < 5 for each in found]),
        "similarity": sum(each.similarity for each in found) / len(found) if found else None,
    }


def report(
    asked: Sequence[Question],
    found: Sequence[Identification],
    calibration: Sequence[Identification],
    setup: dict[str, Any],
) -> None:
    """Print the table, and the document on the last line."""
    from v2flow_engine.evaluation.unseen_words import KINDS

    by_kind = {
        kind: [each for each, question in zip(found, asked, strict=True) if question.kind == kind]
        for kind in (*KINDS, "label")
    }
    chance = {
        f"top{k}{suffix}": min(1.0, k / setup[number])
        for suffix, number in (("", "candidates"), ("_of_all", "all_emoji"))
        for k in (1, 5)
    }
    unseen = part_scores([each for kind in KINDS for each in by_kind[kind]])
    kinds = {kind: part_scores(by_kind[kind]) for kind in KINDS if by_kind[kind]}
    seen, true = part_scores(by_kind["label"]), part_scores(calibration)
    table = {
        "unseen words": unseen,
        **{f"  {kind}": row for kind, row in kinds.items()},
        "seen words: the labels": seen,
        "chance": {"n": None, "similarity": None, **chance},
        "judge on references": true,
    }
    print(format_table(["", *PARTS], [[name, *(row[part] for part in PARTS)] for name, row in table.items()]))
    print()
    document = {
        "command": "eval words",
        **{f"unseen_{part}": unseen[part] for part in PARTS[1:]},
        **{f"seen_{part}": seen[part] for part in PARTS[1:]},
        **{f"chance_{part}": value for part, value in chance.items()},
        "judge_top1_on_references": true["top1"],
        "parts": {**kinds, "label": seen, "references": true},
        "setup": setup,
    }
    print(last_line(document), flush=True)


def write_sheets(
    folder: Path,
    judge: Judge,
    asked: Sequence[Question],
    pictures: Sequence[np.ndarray],
    found: Sequence[Identification],
    samples: int,
) -> list[Path]:
    """words.png and words.html: the first picture of each prompt beside the emoji meant, by kind."""
    from v2flow_engine.evaluation.sheets import Row, write_sheet
    from v2flow_engine.evaluation.unseen_words import KINDS

    labels = {each.hexcode: each.label for each in judge.artwork.emoji}
    styles = {each.hexcode: each.styles for each in judge.artwork.emoji}
    rows: dict[str, list[Row]] = {kind: [] for kind in (*KINDS, "label")}
    for question, picture, each in list(zip(asked, pictures, found, strict=True))[::samples]:
        reference = judge.artwork.picture(each.hexcode, styles[each.hexcode][0], each.background, 1)
        if each.rank == 0:
            finding = f"right: {question.label}"
        else:
            finding = f"{question.label}: rank {each.rank + 1}, nearest {labels[each.nearest]}"
        rows[question.kind].append(Row([picture, reference], [question.prompt, finding]))
    sections = {
        **{f"unseen words, {kind}": rows[kind] for kind in KINDS},
        "seen words: the labels": rows["label"][:SHEET_ROWS],
    }
    title = "Pictures of prompts in words that no training caption had, and what they mean"
    return write_sheet(folder, "words", title, ["generated", "meant"], sections)
