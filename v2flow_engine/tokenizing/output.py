"""Decoded pictures -> PNG files that say how they were made, a manifest, and a sheet to look at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import OutputError
from v2flow_engine.files import check_folder, slug, told_as_output_error, visible_names, write_whole
from v2flow_engine.images import ImageMetadata, encode_image

if TYPE_CHECKING:
    from PIL import Image

    from v2flow_engine.evaluation.sheets import Row
    from v2flow_engine.tokenizing.batches import Origin

MANIFEST = "manifest.jsonl"
SHEET_ROWS = 200


def check_new_folder(directory: Path) -> None:
    """Raise `OutputError` unless the folder can be created, or is there, empty and writable. Changes nothing."""
    check_folder(directory)
    if there := visible_names(directory):
        raise OutputError(f"{directory}: holds files ({there[0]}); give an empty or a new folder as --out")


class PictureFolder:
    """The folder of one run, made when the first picture comes.

    Args:
        command: what makes the pictures; it goes into their metadata.
        columns: of the sheet.
    """

    def __init__(self, directory: Path, command: str, columns: Sequence[str]) -> None:
        self.directory, self.command, self.columns = directory, command, columns
        self.written = 0
        self._rows: list[Row] = []

    def write(
        self,
        picture: Image.Image,
        origin: Origin,
        seed: int,
        parameters: dict[str, Any],
        *,
        number: int | None = None,
        prompt: str | None = None,
        **findings: Any,
    ) -> None:
        """Write one picture and its line of the manifest.

        Args:
            parameters: the model and the decoder's settings.
            number: of the picture, where an image has several; None is the image's own.
            prompt: of the picture, where it has one.
            findings: further fields of the line.
        """
        number = origin.id if number is None else number
        how = {
            **parameters,
            "command": self.command,
            "source": Path(origin.path).name,  # the folders it lies in are the user's own business
            "fit": origin.fit,
            **({"pad_color": origin.pad_color} if origin.pad_color else {}),
        }
        data = encode_image(picture, "png", ImageMetadata(prompt or "", seed, how))
        name = f"{number:06d}-{slug(Path(origin.path).stem)}.png"
        line = {
            "id": number,
            "source": origin.path,
            "width": origin.width,
            "height": origin.height,
            **({} if prompt is None else {"prompt": prompt}),
            "seed": seed,
            "parameters": how,
            "file": name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            **findings,
        }
        with told_as_output_error(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            write_whole(self.directory / name, data)
            with (self.directory / MANIFEST).open("a", encoding="utf-8") as manifest:
                manifest.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.written += 1

    def show(self, pictures: Sequence[Image.Image], lines: Sequence[str]) -> None:
        """Keep a row for the sheet, while there is room; `lines` go below it."""
        import numpy as np

        from v2flow_engine.evaluation.sheets import Row

        if len(self._rows) < SHEET_ROWS:
            self._rows.append(Row([np.asarray(picture) for picture in pictures], lines))

    def write_sheet(self, title: str, images: int) -> Path:
        """sheet.png and index.html of the rows that were kept, out of `images`; returns the latter's path."""
        from v2flow_engine.evaluation.sheets import write_sheet

        shown = len(self._rows)
        headline = f"{images} image{'s' * (images != 1)}" + (
            f", the first {shown} shown" if shown < images else ""
        )
        return write_sheet(
            self.directory, "sheet", title, self.columns, {headline: self._rows}, page="index.html"
        )[-1]
