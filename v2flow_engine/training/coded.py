"""Pictures as codes in a folder, which an LLM can be trained on where there are no pixels.

codes.json          format, codebook_size, sizes in order, and the digest of the visual tokenizer that encoded
SPLIT-WxH.parquet   a row for each picture: codes list<int32> in raster order, record string (JSON)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from v2flow_engine.config import load_json, save_json
from v2flow_engine.errors import DataError

ABOUT = "codes.json"
MOVED_FROM = "moved_from.json"  # beside a visual tokenizer that another one's codes were moved to
FORMAT = 1
SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Coded:
    """Pictures of one size "WxH": codes (n, S) int32; records: n JSON objects."""

    size: str
    codes: torch.Tensor
    records: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.records)


def is_coded(folder: Path) -> bool:
    """Whether it is a folder that `v2flow data codes` wrote."""
    return (folder / ABOUT).is_file()


def tokenizer_digest(folder: Path) -> str:
    """16 hexadecimal digits of a visual tokenizer's config and weights. Raises `DataError`."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:16]


def write_coded(
    folder: Path, splits: Mapping[str, Sequence[Coded]], codebook_size: int, tokenizer: str
) -> None:
    """Fill a folder. tokenizer: the `tokenizer_digest` of the one that encoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, sets in splits.items():
        for each in sets:
            records = [json.dumps(record, ensure_ascii=False) for record in each.records]
            codes = pa.array(each.codes.tolist(), pa.list_(pa.int32()))
            table = pa.table({"codes": codes, "record": records})
            pq.write_table(table, folder / f"{split}-{each.size}.parquet", compression="zstd")
    sizes = dict.fromkeys(each.size for sets in splits.values() for each in sets)
    about = {
        "format": FORMAT,
        "sizes": list(sizes),
        "codebook_size": codebook_size,
        "tokenizer": tokenizer,
    }
    save_json(about, folder / ABOUT)


def read_coded(folders: Sequence[Path], split: str, limit: int | None = None) -> list[Coded]:
    """All pictures of a split, folder by folder, in one set for each size.

    limit: take this many pictures of each folder at most. Raises `DataError` for a folder without any, and for a file
    that is damaged.
    """
    sets: dict[str, list[Coded]] = {}
    for folder in folders:
        about, left = _about(folder), limit
        paths = [folder / f"{split}-{size}.parquet" for size in about["sizes"]]
        paths = [path for path in paths if path.is_file()]
        if not paths:
            raise DataError(f"{folder}: holds no codes of pictures named {split}-WxH.parquet")
        for path in paths:
            if left == 0:
                break
            read = _read(path, about["codebook_size"], left)
            left = None if left is None else left - len(read)
            sets.setdefault(read.size, []).append(read)
    joined = []
    for size, parts in sets.items():
        if len({part.codes.shape[1] for part in parts}) > 1:
            raise DataError(
                f"{', '.join(map(str, folders))}: pictures of {size} differ in their number of codes"
            )
        records = [record for part in parts for record in part.records]
        joined.append(Coded(size, torch.cat([part.codes for part in parts]), records))
    return joined


def say_moved_from(folder: Path, source: Path) -> None:
    """Note beside a visual tokenizer that its codes mean what those of another one, `source`, do."""
    save_json({"tokenizer": tokenizer_digest(source)}, folder / MOVED_FROM)


def check_tokenizer(folders: Sequence[Path], tokenizer_dir: Path) -> None:
    """Raise `DataError` for a folder whose codes are neither this visual tokenizer's nor of the one that its codes were
    moved from.
    """
    known = [tokenizer_digest(tokenizer_dir)]
    if (tokenizer_dir / MOVED_FROM).is_file():
        known.append(load_json(tokenizer_dir / MOVED_FROM)["tokenizer"])
    for folder in folders:
        found = _about(folder)["tokenizer"]
        if found not in known:
            raise DataError(
                f"{folder}: its codes are of the visual tokenizer {found}, and {tokenizer_dir} is {known[0]}"
            )


def _about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    about = load_json(path)
    if about.get("format") != FORMAT or not {"sizes", "codebook_size", "tokenizer"} <= about.keys():
        raise DataError(f"{path}: expected what v2flow data codes writes, of format {FORMAT}; got {about}")
    return about


def _read(path: Path, codebook_size: int, limit: int | None) -> Coded:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read(columns=["codes", "record"]).slice(0, limit)
        codes = np.array(table["codes"].to_pylist(), dtype=np.int32)
        records = [json.loads(record) for record in table["record"].to_pylist()]
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} holds no codes: {str(error).splitlines()[0]}") from error
    if codes.ndim != 2 or not codes.size or codes.min() < 0 or codes.max() >= codebook_size:
        raise DataError(
            f"{path} holds no codes: expected as many for each picture, all in [0, {codebook_size})"
        )
    return Coded(path.stem.partition("-")[2], torch.from_numpy(codes), records)
