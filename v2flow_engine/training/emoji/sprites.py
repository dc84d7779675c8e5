"""Artwork of the catalogue -> square RGBA sprites of one size, kept on disk so that drawing happens once.

The cache is one array file, opened memory-mapped: the worker processes of a run share its pages. Does not
know backgrounds or arrangements.
"""

import io
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from v2flow_engine.errors import DataError, OutputError
from v2flow_engine.training.emoji import sources
from v2flow_engine.training.emoji.catalogue import SVG_STYLES, load_catalogue, read_svgs, read_webps

FORMAT_VERSION = 1
_CHUNK = 64


def load_sprites(packages_dir: Path, size: int = 112, workers: int = 2) -> dict[tuple[str, str], np.ndarray]:
    """(hexcode, style) -> (size, size, 4) uint8 RGBA, straight alpha, read-only, for the whole catalogue.

    The first call draws everything (about six seconds on two cores) and writes `sprites-SIZE.npy` and its
    index beside the packages; later calls map that file. Raises OutputError if the folder cannot be written.
    """
    packages_dir = Path(packages_dir)
    array_path = packages_dir / f"sprites-{size}.npy"
    index_path = packages_dir / f"sprites-{size}.json"
    if not _is_current(index_path, array_path):
        try:
            _draw_all(packages_dir, size, workers, array_path, index_path)
        except OSError as error:
            raise OutputError(f"cannot write {array_path}: {error.strerror or error}") from error
    keys = json.loads(index_path.read_text())["keys"]
    sprites = np.asarray(np.load(array_path, mmap_mode="r"))
    return {(hexcode, style): sprites[row] for row, (hexcode, style) in enumerate(keys)}


def draw_svg(svg: str, size: int) -> np.ndarray:
    """An SVG document with a square view -> (size, size, 4) uint8 RGBA."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def draw_webp(webp: bytes, size: int) -> np.ndarray:
    """A square WebP file with alpha -> (size, size, 4) uint8 RGBA."""
    return resize_sprite(np.asarray(Image.open(io.BytesIO(webp)).convert("RGBA")), size)


def resize_sprite(sprite: np.ndarray, size: int) -> np.ndarray:
    """(H, H, 4) uint8 RGBA -> (size, size, 4), Lanczos on colours premultiplied by alpha (no fringes)."""
    if sprite.shape[:2] == (size, size):
        return sprite
    premultiplied = Image.fromarray(np.ascontiguousarray(sprite), "RGBA").convert("RGBa")
    return np.asarray(premultiplied.resize((size, size), Image.Resampling.LANCZOS).convert("RGBA"))


def _identity(packages_dir: Path) -> dict:
    """What a cache was drawn from: the tarballs' names carry their versions."""
    tarballs = {each.filename: (packages_dir / each.filename) for each in sources.PACKAGES}
    sizes = {name: path.stat().st_size for name, path in tarballs.items() if path.is_file()}
    return {"format_version": FORMAT_VERSION, "packages": sizes}


def _is_current(index_path: Path, array_path: Path) -> bool:
    if not (index_path.is_file() and array_path.is_file()):
        return False
    try:
        index = json.loads(index_path.read_text())
    except json.JSONDecodeError:
        return False
    identity = _identity(index_path.parent)
    return {key: index.get(key) for key in identity} == identity


def _draw_all(packages_dir: Path, size: int, workers: int, array_path: Path, index_path: Path) -> None:
    artwork = _read_artwork(packages_dir)
    keys = sorted(artwork)
    jobs = [
        ([(key, artwork[key]) for key in keys[start : start + _CHUNK]], size)
        for start in range(0, len(keys), _CHUNK)
    ]
    index_path.unlink(missing_ok=True)  # first, so that an old index never describes a new array
    with tempfile.TemporaryDirectory(prefix=".sprites-", dir=packages_dir) as folder:
        partial = Path(folder) / array_path.name
        sprites = np.lib.format.open_memmap(
            partial, mode="w+", dtype=np.uint8, shape=(len(keys), size, size, 4)
        )
        row = 0
        for drawn in _map(_draw_chunk, jobs, workers):
            sprites[row : row + len(drawn)] = drawn
            row += len(drawn)
        sprites.flush()
        index = Path(folder) / index_path.name
        index.write_text(json.dumps({**_identity(packages_dir), "size": size, "keys": keys}))
        os.replace(partial, array_path)
        os.replace(index, index_path)


def _read_artwork(packages_dir: Path) -> dict[tuple[str, str], str | bytes]:
    files: dict[str, dict] = {style: read_svgs(packages_dir, style) for style in SVG_STYLES}
    files["3d"] = read_webps(packages_dir)
    return {
        (emoji.hexcode, style): files[style][emoji.hexcode]
        for emoji in load_catalogue(packages_dir)
        for style in emoji.styles
        if emoji.hexcode in files[style]
    }


def _draw_chunk(job: tuple[list, int]) -> np.ndarray:
    chunk, size = job
    return np.stack([_draw(key, artwork, size) for key, artwork in chunk])


def _draw(key: tuple[str, str], artwork: str | bytes, size: int) -> np.ndarray:
    try:
        return draw_svg(artwork, size) if isinstance(artwork, str) else draw_webp(artwork, size)
    except (ValueError, OSError) as error:
        raise DataError(
            f"the artwork of {key[0]} in the style {key[1]!r} cannot be drawn: {error}"
        ) from error


def _map(function, jobs: list, workers: int) -> Iterator[np.ndarray]:
    if workers <= 1:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, jobs)
