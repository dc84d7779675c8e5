"""A summary -> one HTML page: nothing in it comes from elsewhere, every word of the job's is text."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from v2flow_engine.offline.manifest import ManifestEntry
from v2flow_engine.offline.reading_back import read_picture
from v2flow_engine.offline.report.charts import Series, duration, line_chart, rates
from v2flow_engine.offline.report.collect import Summary

THUMBNAIL = 192  # pixels of the longer side
_STYLE = Path(__file__).with_name("report.css")
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header><h1>$title</h1><p>$state</p></header>
$sections
</body>
</html>
""")


def build_page(directory: Path, summary: Summary) -> str:
    """The page's text. Pictures that cannot be read are told as such."""
    model = str(_only(summary, "model") or directory.name)
    sections = [
        _tiles(summary),
        _section("Over time", _charts(summary.metrics)),
        _section("Samples", _samples(directory, summary.samples)),
        _section("Settings", _settings(summary)),
        _section("Failed rows", _failures(summary)),
        _section("Runs", _runs(summary.metrics)),
    ]
    return _PAGE.substitute(
        title=escape(f"{model}: {summary.pictures} pictures"),
        style=_STYLE.read_text(encoding="utf-8"),
        state=escape(_state(summary)),
        sections="\n".join(filter(None, sections)),
    )


def _state(summary: Summary) -> str:
    metrics = summary.metrics
    total = metrics.get("pictures")
    if not total:
        return f"{summary.pictures} pictures; the job left no metrics.json"
    missing = max(0, total - summary.pictures - int(metrics.get("failed", 0)))
    parts = [f"{summary.pictures} of {total} pictures"]
    if missing:
        parts.append(f"{missing} still to make")
    if metrics.get("stopped"):
        parts.append(f"the last run was {metrics['stopped']}")
    return ", ".join(parts)


def _tiles(summary: Summary) -> str:
    metrics = summary.metrics
    tiles = [("pictures", f"{summary.pictures:,}"), ("failed rows", f"{summary.failed:,}")]
    if metrics:
        tiles.append(("images/s", f"{metrics.get('images_per_second') or 0:.2f}"))
        loaded = metrics.get("images_per_second_after_loading")
        tiles.append(("images/s after loading", f"{loaded:.2f}" if loaded else "–"))
        seconds = sum(float(run.get("seconds") or 0) for run in [*metrics.get("earlier", []), metrics])
        tiles.append(("time, all runs", duration(seconds)))
    tiles.append(("bytes a picture", f"{summary.image_bytes / max(1, summary.pictures):,.0f}"))
    tiles.append(("files", f"{summary.files:,}"))
    for stage, seconds in summary.seconds.items():
        tiles.append((f"ms in {stage}", f"{1000 * seconds / max(1, summary.pictures):.1f}"))
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in tiles)
    return f'<div class="tiles">{cells}</div>'


def _charts(metrics: dict[str, Any]) -> str:
    history = metrics.get("history") or []
    if len(history) < 2:
        return ""
    times = [float(point["seconds"]) for point in history]

    def over_time(values: Sequence[float]) -> Series:
        return list(zip(times, values, strict=True))

    charts = [
        line_chart(
            "Speed", {"pictures": rates(over_time([float(point["made"]) for point in history]))}, "images/s"
        )
    ]
    pools = [name for name in history[-1].get("utilisation", {})]
    if pools:
        busy = {
            name: over_time([100 * float(p["utilisation"].get(name, 0)) for p in history]) for name in pools
        }
        charts.append(line_chart("Busy actors", busy, "%", top=100))
    queues = [name for name in history[-1].get("queues", {}) if name not in ("done", "waiting")]
    if queues:
        waiting = {name: over_time([float(p["queues"].get(name, 0)) for p in history]) for name in queues}
        charts.append(line_chart("Pictures in each stage", waiting, "pictures"))
    return "".join(charts)


def _samples(directory: Path, entries: Sequence[ManifestEntry]) -> str:
    cards = []
    for entry in entries:
        source = thumbnail(directory, entry)
        picture = f'<img src="{source}" alt="{escape(entry.prompt)}">' if source else "<i>cannot be read</i>"
        caption = f"{escape(entry.prompt)}<small>#{escape(str(entry.id))} · seed {entry.seed}</small>"
        cards.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="samples">{"".join(cards)}</div>' if cards else ""


def thumbnail(directory: Path, entry: ManifestEntry) -> str | None:
    """A small WebP as a data URL; None for a picture that is not there or broken."""
    try:
        with Image.open(io.BytesIO(read_picture(directory, entry))) as image:
            small = image.convert("RGB")
    except (OSError, IndexError, ValueError):
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _settings(summary: Summary) -> str:
    rows = []
    for name, values in summary.settings.items():
        if values is None:
            text = "more than a dozen values"
        elif len(values) == 1:
            text = next(iter(values))
        else:
            text = ", ".join(f"{value} ({count:,})" for value, count in values.most_common())
        rows.append((name, text))
    return _table(("setting", "value"), rows)


def _failures(summary: Summary) -> str:
    if not summary.failed:
        return ""
    reasons = _table(("rows", "reason"), [(f"{n:,}", reason) for reason, n in summary.reasons.most_common()])
    rows = [
        (str(e.get("id", "")), str(e.get("prompt", ""))[:200], str(e.get("error", "")))
        for e in summary.errors
    ]
    some = "" if len(rows) == summary.failed else f"<p>The first {len(rows)} of {summary.failed:,}:</p>"
    return f"{reasons}{some}{_table(('id', 'prompt', 'error'), rows)}"


def _runs(metrics: dict[str, Any]) -> str:
    if not metrics:
        return ""
    rows = []
    for run in [*metrics.get("earlier", []), metrics]:
        actors = ", ".join(f"{count} {pool}" for pool, count in (run.get("actors") or {}).items())
        rows.append(
            (
                str(run.get("started", "")),
                duration(float(run.get("seconds") or 0)),
                f"{run.get('made', 0):,}",
                f"{run.get('failed', 0):,}",
                f"{run.get('images_per_second') or 0:.2f}",
                actors or "one process",
                "; ".join([*filter(None, [run.get("stopped")]), *run.get("notes", [])]),
            )
        )
    return _table(("started", "took", "made", "failed", "images/s", "actors", "notes"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(each)}</th>" for each in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _only(summary: Summary, name: str) -> str | None:
    values = summary.settings.get(name)
    return next(iter(values)) if values and len(values) == 1 else None
