"""WebDataset shards or folders of images -> pictures in memory: uint8 pixels and one record each.

Shards are tars of KEY.webp|png|jpg and KEY.json, named by their split (`train-000000.tar`); a folder without tars is
one of images (`image_folder.py`). Knows nothing of what the records say.
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
from v2flow_engine.reading import read_picture
from v2flow_engine.training.image_folder import is_held_out, list_images
from v2flow_engine.training.sizing import Sizing

SHARD_SUFFIXES = (".webp", ".png", ".jpg", ".jpeg")
HELDOUT = ("heldout_combination", "heldout_emoji")  # splits
HELDOUT_SHARE = 0.05  # of an image folder
Picture = tuple[np.ndarray, dict[str, Any]]  # pixels (H, W, 3) uint8, record


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size: pixels (n, H, W, 3) uint8; records: n JSON objects, in the shards' order."""

    pixels: torch.Tensor
    records: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def size(self) -> str:
        """ "WxH" in pixels."""
        return f"{self.pixels.shape[2]}x{self.pixels.shape[1]}"

    def batch(self, indices: torch.Tensor, device: torch.device | str) -> torch.Tensor:
        """indices (B,) -> pixels (B, 3, H, W) float32 in [-1, 1] on `device`."""
        chosen = self.pixels[indices.to(self.pixels.device)].to(device)
        return chosen.permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(pictures: torch.Tensor, truth: torch.Tensor, least_error: float = 0.0) -> torch.Tensor:
    """PSNR in dB of each of two batches of pixels (B, 3, H, W) in [-1, 1], the first one clamped: (B,).

    least_error is added to each squared error, so that equal pictures have a finite PSNR and slope.
    """
    error = (pictures.float().clamp(-1, 1) - truth).square().mean((1, 2, 3))
    return 10 * torch.log10(4.0 / (error + least_error))


def load_pictures(
    folders: Sequence[Path],
    splits: Sequence[str],
    workers: int,
    limit: int | None = None,
    sizing: Sizing | None = None,
    heldout_share: float = HELDOUT_SHARE,
) -> list[Pictures]:
    """Read all pictures of the given splits into memory, folder by folder.

    Args:
        splits: names of shards; of a folder of images, "train" is what is not held out, all else what is.
        limit: take this many pictures of each folder at most.
        sizing: brings pictures of any size to few; None takes them as they are.
        heldout_share: of a folder of images, the share that is held out.

    Returns one set for each size of picture, in the order in which sizes are met. Raises `DataError` if a folder has
    no such pictures, if one is damaged, and if the sizes of a shard or of a folder of images differ without `sizing`.
    """
    sizing = sizing or Sizing()
    sets: dict[tuple[int, ...], list[Picture]] = {}
    for folder in map(Path, folders):
        if folder.is_dir() and not any(folder.glob("*.tar")):
            pictures = _read_images(folder, "train" in splits, workers, limit, sizing, heldout_share)
        else:
            pictures = _read_shards(folder, splits, workers, limit, sizing)
        for picture in pictures:
            sets.setdefault(picture[0].shape[:2], []).append(picture)
    return [
        Pictures(
            torch.from_numpy(np.stack([pixels for pixels, _ in pictures])), [record for _, record in pictures]
        )
        for pictures in sets.values()
    ]


def _read_images(
    folder: Path, training: bool, workers: int, limit: int | None, sizing: Sizing, heldout_share: float
) -> list[Picture]:
    images = list_images(folder)
    chosen = [i for i in images if is_held_out(i[1]["file_name"], heldout_share) != training][:limit]
    if not chosen:
        raise DataError(
            f"{folder}: none of {len(images)} images is {'left for training' if training else 'held out'} "
            f"with a held-out share of {heldout_share:g}; change the share or add images"
        )
    with ThreadPoolExecutor(workers) as pool:
        pictures = list(pool.map(lambda i: (sizing.pixels(read_picture(i[0])), i[1]), chosen))
    _check_one_size(folder, pictures, sizing)
    return pictures


def _read_shards(
    folder: Path, splits: Sequence[str], workers: int, limit: int | None, sizing: Sizing
) -> list[Picture]:
    shards = [path for split in splits for path in sorted(folder.glob(f"{split}-*.tar"))]
    if not shards:
        raise DataError(f"{folder}: no shards named {' or '.join(f'{s}-*.tar' for s in splits)}")
    if limit is not None:
        shards = shards[: _shards_needed(shards, limit)]
    # Threads: decoding releases the interpreter lock, and pictures need not travel between processes.
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(lambda path: read_shard(path, sizing), shards))
    return [picture for pictures in parts for picture in pictures][:limit]


def _shards_needed(shards: Sequence[Path], limit: int) -> int:
    total = 0
    for number, path in enumerate(shards, start=1):
        with tarfile.open(path) as archive:
            total += sum(name.endswith(".json") for name in archive.getnames())
        if total >= limit:
            return number
    return len(shards)


def read_shard(path: Path, sizing: Sizing) -> list[Picture]:
    """One tar -> its pictures in order; raises `DataError` naming the file."""
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
                elif suffix in SHARD_SUFFIXES:
                    with Image.open(io.BytesIO(content.read())) as image:
                        pictures[key] = sizing.pixels(image)
    except (tarfile.TarError, OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a readable shard ({error})") from error
    if not pictures or pictures.keys() != records.keys():
        raise DataError(f"{path}: {len(pictures)} pictures and {len(records)} records do not match")
    whole = [(pictures[key], records[key]) for key in pictures]
    _check_one_size(path, whole, sizing)
    return whole


def _check_one_size(source: Path, pictures: Sequence[Picture], sizing: Sizing) -> None:
    sizes = sorted({f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels, _ in pictures})
    if len(sizes) > 1 and not sizing.sizes:
        shown = ", ".join(sizes[:3]) + (", ..." if len(sizes) > 3 else "")
        raise DataError(
            f"{source}: pictures of {len(sizes)} different sizes ({shown}); --size WxH brings them to one"
        )
