"""pixels -> one PNG of rows of pictures, to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from v2flow_engine.decoding.decoder import to_uint8


def save_sheet(rows: list[torch.Tensor], path: Path, gap: int = 2) -> None:
    """Write rows of pixels, each (B, 3, H, W) in [-1, 1], as one picture, one row below the other."""
    count = max(len(row) for row in rows)
    height, width = rows[0].shape[-2:]
    sheet = Image.new("RGB", (count * (width + gap) - gap, len(rows) * (height + gap) - gap), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(to_uint8(row)):
            sheet.paste(Image.fromarray(picture), (x * (width + gap), y * (height + gap)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
