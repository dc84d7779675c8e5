"""pixels -> one PNG of rows of pictures, to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from v2flow_engine.decoding.decoder import to_uint8


def save_sheet(rows: list[torch.Tensor], path: Path, gap: int = 2) -> None:
    """Write rows of pixels, each (B, 3, H, W) in [-1, 1], as one picture, one row below the other."""
    width = max(len(row) * (row.shape[3] + gap) for row in rows) - gap
    height = sum(row.shape[2] + gap for row in rows) - gap
    sheet = Image.new("RGB", (width, height), "white")
    y = 0
    for row in rows:
        for x, picture in enumerate(to_uint8(row)):
            sheet.paste(Image.fromarray(picture), (x * (row.shape[3] + gap), y))
        y += row.shape[2] + gap
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
