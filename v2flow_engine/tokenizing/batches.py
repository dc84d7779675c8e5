"""Image files -> batches of pictures of the model's size; what cannot be read is noted and left out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from v2flow_engine.errors import DataError
from v2flow_engine.fitting import fit_picture
from v2flow_engine.reading import read_picture
from v2flow_engine.tokenizing.options import Fitting
from v2flow_engine.tokenizing.sources import Source


@dataclass(frozen=True)
class Origin:
    """Where a picture came from and how it was brought to the model's size.

    id: of its `Source`. width, height: upright, in pixels, before it was fitted. pad_color: #rrggbb if one was asked
    for.
    """

    id: int
    path: str
    width: int
    height: int
    size: str
    fit: str
    pad_color: str | None

    @classmethod
    def of(cls, id: int, path: str, image: Image.Image, fitting: Fitting) -> Origin:
        """Of an upright image that is about to be fitted."""
        color = fitting.pad_color_name
        return cls(id, path, image.width, image.height, fitting.size, fitting.fit, color)


@dataclass(frozen=True)
class FittedImage:
    """picture: RGB, of the model's size."""

    origin: Origin
    picture: Image.Image


@dataclass
class ImageReader:
    """Reads and fits files; `failures` says of each file that was left out what is wrong with it."""

    fitting: Fitting
    batch_size: int
    failures: list[str] = field(default_factory=list)

    def batches(self, sources: Sequence[Source]) -> Iterator[list[FittedImage]]:
        """Up to `batch_size` images at once. Raises `DataError` if none could be read at all."""
        batch: list[FittedImage] = []
        found = False
        for source in sources:
            try:
                batch.append(self._read(source))
            except DataError as error:
                self.failures.append(str(error))
            if len(batch) == self.batch_size:
                yield batch
                batch, found = [], True
        if batch:
            yield batch
        elif self.failures and not found:
            more = f" (nor can {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
            raise DataError(f"{self.failures[0]}{more}")

    def _read(self, source: Source) -> FittedImage:
        fitting = self.fitting
        image = read_picture(source.path, fitting.ground)
        origin = Origin.of(source.id, str(source.path), image, fitting)
        return FittedImage(origin, fit_picture(image, fitting.size, fitting.fit, fitting.pad_color))

    def report(self) -> int:
        """Tell stderr what was left out; returns the exit status, 1 if there was such a file."""
        for failure in self.failures:
            print(f"v2flow: left out: {failure}", file=sys.stderr, flush=True)
        return 1 if self.failures else 0
