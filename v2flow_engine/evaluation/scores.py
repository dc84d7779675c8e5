"""Verdicts -> shares of pictures that are right, over all of them and over parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from v2flow_engine.evaluation.judge import Verdict

PartScores = dict[str, float | int | None]


def share(right: Sequence[bool]) -> float | None:
    """The share that is true; None of nothing."""
    return sum(right) / len(right) if right else None


def generation_scores(seen: Sequence[Verdict], heldout: Sequence[Verdict]) -> dict[str, float | None]:
    """The figures of `v2flow eval generation`, fractions of pictures.

    Top-1 and top-5 over emoji that were trained in this very combination, and over combinations held out;
    background and count over both together; `..._all_right`: emoji (top-1), background and count at once.
    """
    both = [*seen, *heldout]
    return {
        "seen_top1": top(seen, 1),
        "seen_top5": top(seen, 5),
        "heldout_top1": top(heldout, 1),
        "heldout_top5": top(heldout, 5),
        "background_accuracy": share([v.background_right for v in both]),
        "count_accuracy": share([v.count_right for v in both]),
        "seen_all_right": share([all_right(v) for v in seen]),
        "heldout_all_right": share([all_right(v) for v in heldout]),
    }


def part_scores(verdicts: Sequence[Verdict]) -> PartScores:
    """The same figures for one part of the pictures."""
    return {
        "n": len(verdicts),
        "top1": top(verdicts, 1),
        "top5": top(verdicts, 5),
        "background": share([v.background_right for v in verdicts]),
        "count": share([v.count_right for v in verdicts]),
        "all_right": share([all_right(v) for v in verdicts]),
        "similarity": sum(v.similarity for v in verdicts) / len(verdicts) if verdicts else None,
    }


def by(verdicts: Sequence[Verdict], key: Callable[[Verdict], object]) -> dict[str, PartScores]:
    """`part_scores` of each part that `key` tells apart, sorted by its name."""
    parts: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        parts[str(key(verdict))].append(verdict)
    return {name: part_scores(parts[name]) for name in sorted(parts)}


def top(verdicts: Sequence[Verdict], k: int) -> float | None:
    """The share of pictures whose right emoji is among the k nearest."""
    return share([v.rank < k for v in verdicts])


def all_right(verdict: Verdict) -> bool:
    """Emoji, background and count are all as asked."""
    return verdict.rank == 0 and verdict.background_right and verdict.count_right
