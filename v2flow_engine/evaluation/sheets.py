"""Rows of pictures with captions -> a contact sheet, as one PNG and as one HTML file that needs no other.

Does not know what the pictures are or who judged them.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from v2flow_engine.errors import OutputError
from v2flow_engine.images import encode_image

_MARGIN = 8
_LINE = 14
_ROWS_ACROSS = 5

_STYLE = """body{font:14px sans-serif;margin:2em;background:#fafafa}h2{margin-top:2em}
.rows{display:flex;flex-wrap:wrap;gap:16px}.row{background:#fff;padding:8px;border:1px solid #ddd}
.row img{width:128px;height:128px;margin-right:4px}.row p{margin:4px 0 0;max-width:400px}"""


@dataclass(frozen=True)
class Row:
    """Pictures (H, W, 3) uint8 to be seen side by side, and lines of text below them."""

    pictures: Sequence[np.ndarray]
    lines: Sequence[str]


def write_sheet(
    folder: Path, name: str, title: str, columns: Sequence[str], sections: Mapping[str, Sequence[Row]]
) -> list[Path]:
    """Write NAME.png and NAME.html into the folder and return their paths; raises `OutputError`.

    columns: what each picture of a row is. sections: headline -> rows.
    """
    sections = {headline: rows for headline, rows in sections.items() if rows}
    contents = {
        f"{name}.png": encode_image(draw_sheet(columns, sections)),
        f"{name}.html": html_sheet(title, columns, sections).encode(),
    }
    try:
        for filename, content in contents.items():
            (folder / filename).write_bytes(content)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from error
    return [folder / filename for filename in contents]


def html_sheet(title: str, columns: Sequence[str], sections: Mapping[str, Sequence[Row]]) -> str:
    """The whole document, pictures embedded."""
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1><p>Left to right: {html.escape(', '.join(columns))}.</p>",
    ]
    for headline, rows in sections.items():
        parts.append(f"<h2>{html.escape(headline)}</h2><div class=rows>")
        parts += [_html_row(row) for row in rows]
        parts.append("</div>")
    return "\n".join(parts) + "\n"


def draw_sheet(columns: Sequence[str], sections: Mapping[str, Sequence[Row]]) -> Image.Image:
    """All sections below one another, some rows of pictures across."""
    all_rows = [row for rows in sections.values() for row in rows]
    size = max((max(picture.shape[:2]) for row in all_rows for picture in row.pictures), default=1)
    lines = max((len(row.lines) for row in all_rows), default=0)
    width, height = len(columns) * (size + 2) + _MARGIN, size + lines * _LINE + _MARGIN
    bands = [(headline, rows, -(-len(rows) // _ROWS_ACROSS)) for headline, rows in sections.items()]
    total = sum(2 * _LINE + band * height for _, _, band in bands) + _MARGIN
    sheet = Image.new("RGB", (_ROWS_ACROSS * width + _MARGIN, total), (250, 250, 250))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    top = _MARGIN
    for headline, rows, band in bands:
        draw.text((_MARGIN, top), f"{headline}: {', '.join(columns)}", fill=(0, 0, 0), font=font)
        top += 2 * _LINE - _MARGIN
        for index, row in enumerate(rows):
            corner = (_MARGIN + index % _ROWS_ACROSS * width, top + index // _ROWS_ACROSS * height)
            _draw_row(sheet, draw, font, row, corner, size, width - _MARGIN)
        top += band * height + _MARGIN
    return sheet


def _draw_row(sheet, draw, font, row: Row, corner: tuple[int, int], size: int, width: int) -> None:
    left, top = corner
    for index, picture in enumerate(row.pictures):
        sheet.paste(Image.fromarray(picture), (left + index * (size + 2), top))
    for index, line in enumerate(row.lines):
        while line and draw.textlength(line, font=font) > width:
            line = line[:-1]
        draw.text((left, top + size + index * _LINE), line, fill=(60, 60, 60), font=font)


def _html_row(row: Row) -> str:
    sources = (f"data:image/png;base64,{_base64(picture)}" for picture in row.pictures)
    images = "".join(f'<img src="{source}" alt="">' for source in sources)
    return f"<div class=row>{images}<p>{'<br>'.join(map(html.escape, row.lines))}</p></div>"


def _base64(picture: np.ndarray) -> str:
    return base64.b64encode(encode_image(picture)).decode()
