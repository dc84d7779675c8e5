"""A manifest -> index.html, the contact sheet: one page that opens from the disk, without server or network.

A few hundred pictures are embedded, so that the file can be sent alone; more are linked and load while
scrolling.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from v2flow_engine.offline.manifest import ManifestEntry, iter_manifest
from v2flow_engine.offline.reading_back import read_errors, read_picture

SHEET = "index.html"
MAX_EMBEDDED_BYTES = 24 * 2**20
MAX_CARDS = 5000

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark;
  --ground: #f4f4f1; --card: #fff; --ink: #1d1d1f; --faint: #6e6e73; --line: #e2e2de; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #161618; --card: #222225; --ink: #f0f0f2; --faint: #9a9aa0; --line: #333338; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 96rem; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; background: var(--ground);
  color: var(--ink); font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: .4rem 1.5rem; align-items: baseline; margin-bottom: 1.5rem; }
h1 { font-size: 1.5rem; letter-spacing: -.01em; margin: 0; }
header p { margin: 0; color: var(--faint); }
input { margin-left: auto; padding: .5rem .8rem; min-width: 14rem; border: 1px solid var(--line);
border-radius: 99px;
  background: var(--card); color: inherit; font: inherit; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1.1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 14px; overflow:
hidden; } figure img { display: block; width: 100%; height: auto; aspect-ratio: $ratio; object-fit: contain; }
figcaption { padding: .65rem .8rem .75rem; overflow-wrap: anywhere; }
figcaption small { display: block; color: var(--faint); margin-top: .15rem; font-variant-numeric:
tabular-nums; } a { color: inherit; text-decoration: none; }
section { margin-top: 2.5rem; }
h2 { font-size: 1.1rem; }
li { overflow-wrap: anywhere; }
footer { margin-top: 2.5rem; color: var(--faint); font-size: .85rem; overflow-wrap: anywhere; }
[hidden] { display: none; }
</style>
</head>
<body>
<header><h1>$title</h1><p>$summary</p>
<input type="search" id="filter" placeholder="Filter by prompt" aria-label="Filter by prompt"></header>
<main>
$cards
</main>
$failures<footer>$footer</footer>
<script>
const cards = [...document.querySelectorAll("figure")];
document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const card of cards) card.hidden = !card.dataset.prompt.includes(wanted);
});
</script>
</body>
</html>
"""
_HEAD, _TAIL = map(Template, _PAGE.split("$cards\n"))


def sheet_of(directory: Path, total: int) -> Path:
    """The sheet of a folder of `total` pictures, from its manifest and its list of errors."""
    entries = list(itertools.islice(iter_manifest(directory), MAX_CARDS))
    return write_sheet(directory, entries, read_errors(directory, MAX_CARDS), total)


def write_sheet(
    directory: Path,
    entries: Sequence[ManifestEntry],
    errors: Sequence[dict[str, Any]] = (),
    total: int | None = None,
) -> Path:
    """Write index.html beside the pictures, in one step; returns its path.

    Args:
        entries: the pictures in the order of the page; the first `MAX_CARDS` are shown. Of pictures in shards, which
            can't be linked, as many as fit into the page.
        errors: lines of errors.jsonl, listed below the pictures.
        total: pictures of the job, if there are more than `entries`.
    """
    shown = _fitting(entries[:MAX_CARDS])
    embed = sum(entry.bytes for entry in shown) <= MAX_EMBEDDED_BYTES
    head = _HEAD.substitute(
        title=_title(entries),
        summary=escape(_summary(total or len(entries), shown, errors)),
        ratio=_ratio(entries),
    )
    tail = _TAIL.substitute(failures=_failures(errors), footer=escape(_settings(entries)))
    path = directory / SHEET
    temporary = directory / f".{SHEET}.tmp"
    # What failed may be no Unicode text. Card by card: the page is pictures for the most part.
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(head)
        file.writelines(_card(directory, entry, embed) + "\n" for entry in shown)
        file.write(tail)
    temporary.replace(path)
    return path


def _title(entries: Sequence[ManifestEntry]) -> str:
    return escape(str(entries[0].parameters.get("model", "pictures"))) if entries else "no pictures"


def _fitting(entries: Sequence[ManifestEntry]) -> Sequence[ManifestEntry]:
    """All but those in shards that would make the page too large."""
    room = MAX_EMBEDDED_BYTES
    fitting = []
    for entry in entries:
        room -= entry.bytes
        if room >= 0 or not entry.in_shard:
            fitting.append(entry)
    return fitting


def _summary(total: int, shown: Sequence[ManifestEntry], errors: Sequence[Any]) -> str:
    parts = [f"{total} picture{'s' * (total != 1)}"]
    if len(shown) < total:
        parts.append(f"the first {len(shown)} shown")
    if errors:
        parts.append(f"{len(errors)} failed")
    return ", ".join(parts)


def _ratio(entries: Sequence[ManifestEntry]) -> str:
    width, _, height = (
        str(entries[0].parameters.get("size", "1x1")).partition("x") if entries else ("1", "", "1")
    )
    return f"{int(width)} / {int(height)}"


def _settings(entries: Sequence[ManifestEntry]) -> str:
    return " · ".join(f"{name} {value}" for name, value in entries[0].parameters.items()) if entries else ""


def _card(directory: Path, entry: ManifestEntry, embed: bool) -> str:
    source = data_url(directory, entry) if embed else entry.file
    prompt, name = escape(entry.prompt), escape(entry.file)
    made = f"#{entry.id} · seed {entry.seed}"
    return (
        f'<figure data-prompt="{escape(entry.prompt.lower())}"><a href="{name}">'
        f'<img src="{escape(source)}" alt="{prompt}" loading="lazy"></a>'
        f"<figcaption>{prompt}<small>{made}</small></figcaption></figure>"
    )


def data_url(directory: Path, entry: ManifestEntry) -> str:
    """A picture's bytes as a page can hold them."""
    data = base64.b64encode(read_picture(directory, entry)).decode("ascii")
    return f"data:image/{entry.image_format.rpartition('/')[2]};base64,{data}"


def _failures(errors: Sequence[dict[str, Any]]) -> str:
    if not errors:
        return ""
    items = "\n".join(
        f"<li>#{escape(str(e['id']))} {escape(str(e['prompt'])[:200])}: {escape(e['error'])}</li>"
        for e in errors[:MAX_CARDS]
    )
    return f"<section><h2>Failed</h2><ul>\n{items}\n</ul></section>\n"
