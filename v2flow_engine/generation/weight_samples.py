"""A weight file -> the bytes that tell it from others: all of a small one, of a large one samples of every tensor.

Training that leaves both ends of a file alone, as with a frozen embedding and head, still changes its samples. The same
bytes give the same samples on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SMALL_FILE = 16 * 2**20
SAMPLE = 4 * 2**10
EVERY = 16 * 2**20  # no further apart; of any tensor there are three: at its start, middle and end
_MAX_HEADER = 100_000_000  # the format's own limit


def weight_samples(path: Path) -> Iterator[bytes]:
    """In an order that follows from the file alone. Raises `OSError`."""
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:  # a buffer would read more than it is asked for
        if size <= SMALL_FILE:
            yield _read(file, 0, size)
            return
        header = _header(file, size)
        yield header
        for start, end in _tensors(header) or [(0, size - len(header))]:
            yield from _of_range(file, len(header) + start, end - start)


def _of_range(file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    """Evenly spaced samples, the first at the start and the last at the end; a short range as it is."""
    count = max(3, 1 - (-length // EVERY))
    if length <= count * SAMPLE:
        yield _read(file, start, length)
        return
    for number in range(count):
        yield _read(file, start + number * (length - SAMPLE) // (count - 1), SAMPLE)


def _header(file: BinaryIO, size: int) -> bytes:
    """A safetensors file's length field and JSON; b"" of a file that has none."""
    length = _read(file, 0, 8)
    count = int.from_bytes(length, "little")
    if count > min(_MAX_HEADER, size - 8):
        return b""
    header = length + _read(file, 8, count)
    return header if header[8:9] == b"{" else b""


def _tensors(header: bytes) -> list[tuple[int, int]]:
    """Where each tensor begins and ends behind the header, in order; nothing if the header does not say."""
    try:
        entries = json.loads(header[8:])
        return sorted(
            (int(entry["data_offsets"][0]), int(entry["data_offsets"][1]))
            for name, entry in entries.items()
            if name != "__metadata__"
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return []


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    """Less where the file ends. In pieces: the system may give fewer bytes at once than were asked for."""
    file.seek(start)
    data = bytearray()
    while len(data) < count and (piece := file.read(count - len(data))):
        data += piece
    return bytes(data)
