"""Numbers over time -> a line chart as SVG inside a page. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 720, 180
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 24
Series = Sequence[tuple[float, float]]  # (seconds, value), in order


def line_chart(label: str, series: dict[str, Series], unit: str, top: float | None = None) -> str:
    """A chart with its legend.

    Args:
        label: what it shows, for readers who do not see it.
        unit: of the values. top: the largest value of the axis; None takes a round one above all values.
    """
    end = max((points[-1][0] for points in series.values() if points), default=0.0) or 1.0
    highest = max((value for points in series.values() for _, value in points), default=0.0)
    top = top or round_up(highest)

    def place(point: tuple[float, float]) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / end
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(1.0, point[1] / top))
        return f"{x:.1f},{y:.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for share in (0.0, 0.5, 1.0):
        _, y = place((0.0, top * share)).split(",")
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{top * share:g}</text>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = LEFT + (WIDTH - LEFT - RIGHT) * share
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{duration(end * share)}</text>'
        )
    for number, points in enumerate(series.values()):
        parts.append(f'<polyline class="s{number}" points="{" ".join(map(place, points))}"/>')
    parts.append("</svg>")
    keys = "".join(f'<span class="key k{number}">{escape(name)}</span>' for number, name in enumerate(series))
    return f'<div class="chart"><p>{escape(label)} <small>{escape(unit)}</small> {keys}</p>{"".join(parts)}</div>'


def rates(history: Sequence[tuple[float, float]], window: float = 5.0) -> list[tuple[float, float]]:
    """(seconds, count so far) -> (seconds, counts a second), over `window` seconds at least."""
    found = []
    first = 0
    for now, count in history:
        while first + 1 < len(history) and now - history[first + 1][0] >= window:
            first += 1
        then, before = history[first]
        if now > then:
            found.append((now, (count - before) / (now - then)))
    return found


def round_up(value: float) -> float:
    """The least of 1, 2, 5, 10, ... (and fractions alike) that is not below; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def duration(seconds: float) -> str:
    """For an axis: 40 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
