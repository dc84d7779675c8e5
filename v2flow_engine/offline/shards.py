"""Pictures -> shards of many: WebDataset tars or Parquet files, whole under their names or not there.

A shard grows under a temporary name, is synced to the disk and renamed. Its pictures' manifest lines follow, and then
its own line in shards.jsonl, which alone makes it count: a kill in between costs one shard, never half of one. Knows
nothing of what pictures are made from.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import OutputError
from v2flow_engine.files import sync_folder, temporary_name

if TYPE_CHECKING:
    import pyarrow

SHARDS = "shards.jsonl"
CONTAINERS = ("webdataset", "parquet")
ROW_GROUP_BYTES = 16 * 2**20


@dataclass(frozen=True)
class ShardRecord:
    """A line of shards.jsonl: a shard that counts."""

    file: str
    pictures: int
    bytes: int


@dataclass(frozen=True)
class Sample:
    """What a shard keeps of a picture. index: its place in the job. name: of no other picture in the folder.

    record: everything but pixels.
    """

    index: int
    name: str
    image: bytes
    suffix: str
    record: dict[str, Any]


class Shard(ABC):
    """One shard while it grows, under a temporary name beside `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pictures = 0
        self.image_bytes = 0

    def add(self, sample: Sample) -> dict[str, int]:
        """Append a picture; returns where it is: its `offset` or its `row`."""
        place = self._add(sample)
        self.pictures += 1
        self.image_bytes += len(sample.image)
        return place

    @abstractmethod
    def _add(self, sample: Sample) -> dict[str, int]: ...

    @abstractmethod
    def _end(self) -> None:
        """Write what is left, and sync."""

    @abstractmethod
    def _close(self) -> None: ...

    def finish(self) -> ShardRecord:
        """Make it whole and give it its name."""
        self._end()
        self._close()
        size = temporary_name(self.path).stat().st_size
        temporary_name(self.path).replace(self.path)
        sync_folder(self.path.parent)
        return ShardRecord(self.path.name, self.pictures, size)

    def discard(self) -> None:
        """Forget it."""
        try:
            self._close()
        except (OSError, ValueError):  # what kept it from being written keeps it from being closed, too
            pass
        finally:
            temporary_name(self.path).unlink(missing_ok=True)


class TarShard(Shard):
    """KEY.png and KEY.json for each picture, as WebDataset reads them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = temporary_name(path).open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def _add(self, sample: Sample) -> dict[str, int]:
        offset = self._member(sample.name + sample.suffix, sample.image)
        record = json.dumps(sample.record, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._member(f"{sample.name}.json", record)
        return {"offset": offset}

    def _member(self, name: str, data: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        offset = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.members.clear()  # it would keep them all
        return offset

    def _end(self) -> None:
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _close(self) -> None:
        self._file.close()


class ParquetShard(Shard):
    """A row for each picture; `image` is a struct of bytes and path, which `datasets` decodes by itself."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet

        super().__init__(path)
        self._file = temporary_name(path).open("wb")
        self._schema = parquet_schema()
        self._writer = pyarrow.parquet.ParquetWriter(self._file, self._schema)
        self._rows: list[dict[str, Any]] = []
        self._pending = 0

    def _add(self, sample: Sample) -> dict[str, int]:
        record = sample.record
        self._rows.append(
            {
                "id": str(record["id"]),
                "index": sample.index,
                "prompt": record["prompt"],
                "seed": record["seed"],
                "parameters": json.dumps(record["parameters"], ensure_ascii=False),
                "extra": json.dumps(record.get("extra") or {}, ensure_ascii=False),
                "image": {"bytes": sample.image, "path": f"{sample.name}{sample.suffix}"},
            }
        )
        self._pending += len(sample.image)
        row = self.pictures
        if self._pending >= ROW_GROUP_BYTES:
            self._flush()
        return {"row": row}

    def _flush(self) -> None:
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._pending = [], 0

    def _end(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _close(self) -> None:
        self._file.close()


def parquet_schema() -> pyarrow.Schema:
    """The columns of a Parquet shard, with the note that makes `datasets` show pictures."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = ("id", "prompt", "parameters", "extra")
    columns = [("id", pa.string()), ("index", pa.int64()), ("prompt", pa.string()), ("seed", pa.int64())]
    columns += [("parameters", pa.string()), ("extra", pa.string()), ("image", image)]
    features: dict[str, Any] = {
        name: {"dtype": "string" if name in texts else "int64", "_type": "Value"} for name, _ in columns[:-1]
    }
    features["image"] = {"_type": "Image"}
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})


SHARD_KINDS: dict[str, tuple[type[Shard], str]] = {
    "webdataset": (TarShard, ".tar"),
    "parquet": (ParquetShard, ".parquet"),
}


def read_shards(directory: Path) -> dict[str, ShardRecord]:
    """The shards that count, by name: noted in shards.jsonl, and there at their full size."""
    try:
        lines = (directory / SHARDS).read_bytes().split(b"\n")[:-1]  # the last one is empty or cut short
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"{directory / SHARDS}: cannot be read ({error.strerror})") from error
    try:
        records = [ShardRecord(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise OutputError(f"{directory / SHARDS}: not a list of shards ({error})") from error
    return {
        r.file: r
        for r in records
        if (path := directory / r.file).is_file() and path.stat().st_size == r.bytes
    }


def shard_line(record: ShardRecord) -> str:
    """A line of shards.jsonl, newline included."""
    return json.dumps(asdict(record)) + "\n"
