"""Rows of pictures with captions -> a contact sheet, as one PNG and as one HTML file that needs no other.

Does not know what the pictures are or who judged them.
"""

from __future__ import annotations

import base64
import html
import unicodedata
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
_MAX_WIDTH = 2400  # of the PNG, unless a single row is wider

_STYLE = """body{font:14px sans-serif;margin:2em;background:#fafafa}h2{margin-top:2em}
.rows{display:flex;flex-wrap:wrap;gap:16px}.row{background:#fff;padding:8px;border:1px solid #ddd}
.row img{height:128px;margin-right:4px}.row p{margin:4px 0 0;max-width:400px}"""


@dataclass(frozen=True)
class Row:
    """Pictures (H, W, 3) uint8 to be seen side by side, and lines of text below them."""

    pictures: Sequence[np.ndarray]
    lines: Sequence[str]


def write_sheet(
    folder: Path,
    name: str,
    title: str,
    columns: Sequence[str],
    sections: Mapping[str, Sequence[Row]],
    page: str | None = None,
) -> list[Path]:
    """Write NAME.png and NAME.html into the folder and return their paths; raises `OutputError`.

    columns: what each picture of a row is. sections: headline -> rows. page: another name for the HTML file.
    """
    sections = {headline: rows for headline, rows in sections.items() if rows}
    contents = {
        f"{name}.png": encode_image(draw_sheet(columns, sections)),
        page or f"{name}.html": html_sheet(title, columns, sections).encode(),
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
    """All sections below one another, as many rows of pictures across as there is room for."""
    all_rows = [row for rows in sections.values() for row in rows]
    shapes = [picture.shape for row in all_rows for picture in row.pictures] or [(1, 1, 3)]
    cell = max(shape[1] for shape in shapes), max(shape[0] for shape in shapes)
    lines = max((len(row.lines) for row in all_rows), default=0)
    width, height = len(columns) * (cell[0] + 2) + 2 * _MARGIN, cell[1] + lines * _LINE + _MARGIN
    longest = max(map(len, sections.values()), default=1)
    across = max(1, min(_ROWS_ACROSS, longest, _MAX_WIDTH // width))
    headlines = {headline: f"{headline}: {', '.join(columns)}" for headline in sections}
    font = ImageFont.load_default(size=11)
    text_width = max((int(font.getlength(text)) for text in headlines.values()), default=0)
    bands = [(headline, rows, -(-len(rows) // across)) for headline, rows in sections.items()]
    total = sum(2 * _LINE + band * height for _, _, band in bands) + _MARGIN
    across_width = max(across * width, text_width + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (across_width, total), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for headline, rows, band in bands:
        draw.text((_MARGIN, top), headlines[headline], fill=(0, 0, 0), font=font)
        top += 2 * _LINE - _MARGIN
        for index, row in enumerate(rows):
            corner = (_MARGIN + index % across * width, top + index // across * height)
            _draw_row(sheet, draw, font, row, corner, cell, width - 2 * _MARGIN)
        top += band * height + _MARGIN
    return sheet


def _draw_row(
    sheet, draw, font, row: Row, corner: tuple[int, int], cell: tuple[int, int], width: int
) -> None:
    left, top = corner
    for index, picture in enumerate(row.pictures):
        sheet.paste(Image.fromarray(picture), (left + index * (cell[0] + 2), top))
    for index, line in enumerate(map(_without_accents, row.lines)):
        while line and draw.textlength(line, font=font) > width:
            line = line[:-1]
        draw.text((left, top + cell[1] + index * _LINE), line, fill=(60, 60, 60), font=font)


def _without_accents(line: str) -> str:
    """ "corazón" -> "corazon": the font of the PNG draws accented letters as boxes."""
    return "".join(each for each in unicodedata.normalize("NFD", line) if not unicodedata.combining(each))


def _html_row(row: Row) -> str:
    sources = (f"data:image/png;base64,{_base64(picture)}" for picture in row.pictures)
    images = "".join(f'<img src="{source}" alt="">' for source in sources)
    return f"<div class=row>{images}<p>{'<br>'.join(map(html.escape, row.lines))}</p></div>"


def _base64(picture: np.ndarray) -> str:
    return base64.b64encode(encode_image(picture)).decode()
