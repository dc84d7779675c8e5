"""Pictures whose pixels are fine and whose EXIF is not: 96 x 64, to be turned by a quarter where it can be read."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

TURN = (0x112, 3, struct.pack("<HH", 6, 0))
WIDTH, RESOLUTION, GPS = 0x100, 0x11A, 0x8825
RATIONAL, TEXT, SIGNED = 5, 2, 9


def _exif(*entries: tuple[int, int, bytes]) -> bytes:
    """TIFF of one directory. entries: tag, type, and the four bytes of a value or of its place."""
    listed = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + listed + bytes(4) + b"\1" * 64


# Pillow reads these, and fails to write them again.
ODD_TAGS = {
    "a width of thirds": _exif((WIDTH, RATIONAL, struct.pack("<I", 40)), TURN),
    "a width below zero": _exif((WIDTH, SIGNED, struct.pack("<i", -5)), TURN),
    "a resolution in words": _exif(TURN, (RESOLUTION, TEXT, b"abc\0")),
    "a place below zero": _exif(TURN, (GPS, SIGNED, struct.pack("<i", -5))),
}


def _saved(image_format: str, **options: object) -> bytes:
    ramp = np.linspace(0, 255, 96 * 64 * 3).reshape(64, 96, 3).astype(np.uint8)
    alpha = np.full((64, 96, 1), 255, np.uint8)
    alpha[:, 48:] = 0
    pixels = ramp if image_format == "JPEG" else np.concatenate([ramp, alpha], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def _png_with(kind: bytes, data: bytes) -> bytes:
    plain = _saved("PNG")
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return plain[:33] + chunk + plain[33:]


# Those with a right half that is transparent are PNG.
UNREADABLE = {
    "garbage": _png_with(b"eXIf", b"no EXIF at all"),
    "cut short": _png_with(b"eXIf", b"II*\0"),
    "text that is not hex": _png_with(b"tEXt", b"Raw profile type exif\0\nexif\n  4\nnot hex"),
}
TURNED = {
    **{f"{name}, PNG": _saved("PNG", exif=exif) for name, exif in ODD_TAGS.items()},
    **{f"{name}, JPEG": _saved("JPEG", exif=b"Exif\0\0" + exif) for name, exif in ODD_TAGS.items()},
}
