"""WebDataset shards -> pictures in memory: uint8 pixels and one record each.

Shards are tars of KEY.webp|png|jpg and KEY.json. Knows nothing of what the records say, but for their split in the
shard's name (`train-000000.tar`).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from v2flow_engine.errors import DataError

IMAGE_SUFFIXES = (".webp", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Pictures:
    """pixels: (n, H, W, 3) uint8; records: n JSON objects, in the shards' order."""

    pixels: torch.Tensor
    records: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, indices: torch.Tensor, device: torch.device | str) -> torch.Tensor:
        """indices (B,) -> pixels (B, 3, H, W) float32 in [-1, 1] on `device`."""
        chosen = self.pixels[indices.to(self.pixels.device)].to(device)
        return chosen.permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(pictures: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """PSNR in dB of each of two batches of pixels (B, 3, H, W) in [-1, 1], the first one clamped: (B,)."""
    return 10 * torch.log10(4.0 / (pictures.float().clamp(-1, 1) - truth).square().mean((1, 2, 3)))


def load_pictures(folder: Path, splits: Sequence[str], workers: int, limit: int | None = None) -> Pictures:
    """Read all shards of the given splits into memory, `limit` pictures at most.

    Raises `DataError` if there are none, or if one is damaged.
    """
    shards = [path for split in splits for path in sorted(Path(folder).glob(f"{split}-*.tar"))]
    if not shards:
        raise DataError(f"{folder}: no shards named {' or '.join(f'{s}-*.tar' for s in splits)}")
    if limit is not None:
        shards = shards[: _shards_needed(shards, limit)]
    # Threads: decoding releases the interpreter lock, and pictures need not travel between processes.
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(read_shard, shards))
    records = [record for part in parts for record in part[1]][:limit]
    pixels = np.concatenate([part[0] for part in parts])[:limit]
    return Pictures(torch.from_numpy(pixels), records)


def _shards_needed(shards: Sequence[Path], limit: int) -> int:
    total = 0
    for number, path in enumerate(shards, start=1):
        with tarfile.open(path) as archive:
            total += sum(name.endswith(".json") for name in archive.getnames())
        if total >= limit:
            return number
    return len(shards)


def read_shard(path: Path) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One tar -> (pixels (n, H, W, 3) uint8, records); raises `DataError` naming the file."""
    pictures, records = {}, {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None:
                    continue
                key, suffix = Path(member.name).stem, Path(member.name).suffix
                if suffix == ".json":
                    records[key] = json.load(content)
                elif suffix in IMAGE_SUFFIXES:
                    with Image.open(io.BytesIO(content.read())) as image:
                        pictures[key] = np.asarray(image.convert("RGB"))
    except (tarfile.TarError, OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a readable shard ({error})") from error
    if not pictures or pictures.keys() != records.keys():
        raise DataError(f"{path}: {len(pictures)} pictures and {len(records)} records do not match")
    shapes = {picture.shape for picture in pictures.values()}
    if len(shapes) != 1:
        raise DataError(f"{path}: pictures of different sizes {sorted(shapes)}")
    return np.stack(list(pictures.values())), [records[key] for key in pictures]
