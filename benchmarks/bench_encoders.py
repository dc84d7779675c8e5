"""Which encoder is the fastest? Milliseconds and kilobytes of a picture as PNG, WebP and JPEG, one thread.

    python benchmarks/bench_encoders.py --sizes 128 1024 [--pictures DIR]

Without --pictures it takes six free photographs (`v2flow_engine.evaluation.photographs`). Encoders that are not
installed are left out. Encoders of a format take turns, and the fastest of the repeats counts, so that other work on
the machine disturbs little. The last line is one JSON document. What the product uses is in `v2flow_engine/images.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from v2flow_engine.errors import V2FlowError
from v2flow_engine.evaluation.photographs import load_photographs
from v2flow_engine.images import encode_image

Encode = Callable[[np.ndarray], bytes]
Named = Iterator[tuple[str, str, Encode]]  # format, name, function


def product() -> Named:
    """What this package uses."""
    for image_format in ("png", "webp", "jpeg"):
        yield image_format, "v2flow_engine", lambda p, f=image_format: encode_image(p, f)


def pillow() -> Named:
    """Pillow: the default level of PNG and the fastest, otherwise the product's qualities."""

    def save(pixels: np.ndarray, image_format: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=image_format, **options)
        return buffer.getvalue()

    yield "png", "pillow, level 6", lambda p: save(p, "PNG")
    yield "png", "pillow, level 1", lambda p: save(p, "PNG", compress_level=1)
    for method in (4, 2, 0):
        yield (
            "webp",
            f"pillow, method {method}",
            lambda p, m=method: save(p, "WEBP", quality=90, method=m),
        )
    yield "jpeg", "pillow", lambda p: save(p, "JPEG", quality=95, subsampling=0)


def opencv() -> Named:
    """OpenCV, which wants BGR."""
    import cv2

    def encode(pixels: np.ndarray, suffix: str, *options: int) -> bytes:
        return cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()

    level = cv2.IMWRITE_PNG_COMPRESSION
    yield "png", "opencv, level 1", lambda p: encode(p, ".png", level, 1)
    yield "webp", "opencv", lambda p: encode(p, ".webp", cv2.IMWRITE_WEBP_QUALITY, 90)
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    yield "jpeg", "opencv", lambda p: encode(p, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95, *sampling)


def imagecodecs() -> Named:
    """The collection of codecs of that name."""
    import imagecodecs as codecs

    yield "png", "imagecodecs png, level 1", lambda p: codecs.png_encode(p, level=1)
    yield "png", "imagecodecs spng, level 1", lambda p: codecs.spng_encode(p, level=1)
    yield "webp", "imagecodecs", lambda p: codecs.webp_encode(p, level=90, lossless=False)
    yield "jpeg", "imagecodecs", lambda p: codecs.jpeg8_encode(p, level=95, subsampling="444")


def others() -> Named:
    """Libraries of one format."""
    import fpng_py_fix
    import simplejpeg

    yield (
        "png",
        "fpng",
        lambda p: fpng_py_fix.fpng_encode_image_to_memory(p.tobytes(), p.shape[1], p.shape[0]),
    )
    yield "jpeg", "simplejpeg", lambda p: simplejpeg.encode_jpeg(p, quality=95, colorsubsampling="444")


def vips() -> Named:
    """libvips."""
    import pyvips

    def encode(pixels: np.ndarray, suffix: str, **options: object) -> bytes:
        return pyvips.Image.new_from_array(pixels).write_to_buffer(suffix, **options)

    yield "png", "libvips, level 1", lambda p: encode(p, ".png", compression=1)
    yield "webp", "libvips", lambda p: encode(p, ".webp", Q=90)
    yield "jpeg", "libvips", lambda p: encode(p, ".jpg", Q=95, subsample_mode="off")


def encoders() -> dict[str, dict[str, Encode]]:
    """By format and name, those that are installed."""
    found: dict[str, dict[str, Encode]] = {"png": {}, "webp": {}, "jpeg": {}}
    sources: Iterable[Callable[[], Named]] = (product, pillow, opencv, imagecodecs, others, vips)
    for source in sources:
        try:
            for image_format, name, encode in source():
                found[image_format][name] = encode
        except ImportError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found


def measure(pictures: Sequence[np.ndarray], several: dict[str, Encode], repeats: int) -> dict[str, dict]:
    """For each encoder milliseconds a picture and kilobytes a picture, and whether the pixels survive."""
    seconds = {name: [float("inf")] * len(pictures) for name in several}
    sizes: dict[str, int] = dict.fromkeys(several, 0)
    lossless = dict.fromkeys(several, True)
    for i, picture in enumerate(pictures):
        for repeat in range(repeats):
            for name, encode in several.items():
                start = time.perf_counter()
                data = encode(picture)
                seconds[name][i] = min(seconds[name][i], time.perf_counter() - start)
                if not repeat:
                    sizes[name] += len(data)
                    lossless[name] &= np.array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)
    return {
        name: {
            "ms": 1e3 * sum(seconds[name]) / len(pictures),
            "kB": sizes[name] / len(pictures) / 1e3,
            "lossless": lossless[name],
        }
        for name in several
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 2 for pictures that cannot be had."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--sizes", type=int, nargs="+", default=[128, 1024], help="sides in pixels")
    options.add_argument("--pictures", type=Path, metavar="DIR", help="PNG, WebP and JPEG files to take")
    options.add_argument("--repeats", type=int, default=10)
    args = options.parse_args(argv)
    report: dict[str, dict] = {}
    for side in args.sizes:
        try:
            pictures = [each.pixels for each in load_photographs(side, args.pictures)]
        except V2FlowError as error:
            print(f"bench_encoders: error: {error}", file=sys.stderr)
            return 2
        for image_format, several in encoders().items():
            found = measure(pictures, several, args.repeats)
            report.setdefault(f"{side}x{side}", {})[image_format] = found
            print(f"\n{side}x{side} {image_format}, {len(pictures)} pictures")
            for name, values in sorted(found.items(), key=lambda item: item[1]["ms"]):
                print(f"  {name:<28}{values['ms']:>9.3f} ms{values['kB']:>10.1f} kB")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
