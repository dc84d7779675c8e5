"""What must hold of a folder that `v2flow generate` filled, whatever was killed meanwhile.

Reads the folder as a user would: manifest, Pillow, tar and Parquet readers. Knows nothing of how it was made.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from v2flow_engine.images import read_metadata
from v2flow_engine.offline.manifest import MANIFEST, ManifestEntry, iter_manifest
from v2flow_engine.offline.metrics import METRICS
from v2flow_engine.offline.reading_back import read_picture
from v2flow_engine.offline.shards import SHARD_KINDS, SHARDS, read_shards
from v2flow_engine.offline.sink import BATCHES

SHEET = "index.html"


def faults(out: Path, ids: set[str]) -> list[str]:
    """What is wrong with a finished job's folder, a line each; none if it holds every picture once and whole.

    ids: of the pictures that it should hold.
    """
    entries = list(iter_manifest(out))
    return [
        *_gaps(entries, ids),
        *(line for entry in entries for line in _of_picture(out, entry)),
        *_of_shards(out, entries),
        *_strangers(out, entries),
    ]


def picture_bytes(out: Path) -> dict[str, str]:
    """The sha256 of each picture by its id, of the bytes that are there."""
    return {str(e.id): hashlib.sha256(read_picture(out, e)).hexdigest() for e in iter_manifest(out)}


def _gaps(entries: list[ManifestEntry], ids: set[str]) -> Iterator[str]:
    counts = Counter(str(entry.id) for entry in entries)
    yield from (f"{name}: {count} times" for name, count in counts.items() if count > 1)
    yield from (f"{name}: missing" for name in sorted(ids - set(counts)))
    yield from (f"{name}: not of this job" for name in sorted(set(counts) - ids))
    places = Counter((entry.file, entry.offset, entry.row) for entry in entries)
    yield from (f"{place}: {count} pictures" for place, count in places.items() if count > 1)


def _of_picture(out: Path, entry: ManifestEntry) -> Iterator[str]:
    try:
        data = read_picture(out, entry)
        metadata = read_metadata(data)
        Image.open(io.BytesIO(data)).load()
    except (OSError, ValueError, IndexError) as error:
        yield f"{entry.id}: cannot be read ({error})"
        return
    if hashlib.sha256(data).hexdigest() != entry.sha256 or len(data) != entry.bytes:
        yield f"{entry.id}: other bytes than the manifest says"
    if metadata is None or (metadata.prompt, metadata.seed) != (entry.prompt, entry.seed):
        yield f"{entry.id}: another picture than the manifest says"


def _of_shards(out: Path, entries: list[ManifestEntry]) -> Iterator[str]:
    noted = read_shards(out)
    there = {path.name for _, suffix in SHARD_KINDS.values() for path in out.glob(f"shard-*{suffix}")}
    yield from (f"{name}: a shard that is not noted" for name in sorted(there - set(noted)))
    expected: dict[str, Counter[str]] = {name: Counter() for name in noted}
    for entry in entries:
        if entry.in_shard:
            expected.setdefault(entry.file, Counter())[str(entry.id)] += 1
    for name, ids in expected.items():
        if _ids_in(out / name) != ids:
            yield f"{name}: holds other pictures than the manifest says"


def _ids_in(shard: Path) -> Counter[str]:
    """The ids of the pictures in a shard, as its own format tells them."""
    if shard.suffix == ".parquet":
        import pyarrow.parquet

        return Counter(pyarrow.parquet.read_table(shard, columns=["id"])["id"].to_pylist())
    with tarfile.open(shard) as tar:
        members = [member for member in tar if member.name.endswith(".json")]
        return Counter(str(json.load(tar.extractfile(member))["id"]) for member in members)


def _strangers(out: Path, entries: list[ManifestEntry]) -> Iterator[str]:
    known = {entry.file for entry in entries} | {MANIFEST, METRICS, SHARDS, SHEET, BATCHES}
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    yield from (f"{name}: left behind" for name in sorted(found - known))
