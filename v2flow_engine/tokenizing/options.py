"""The options that `v2flow encode`, `reconstruct`, `variations` and `edit` share -> checked settings."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from v2flow_engine.config import SOLVERS
from v2flow_engine.fitting import FITS, parse_color
from v2flow_engine.reading import WHITE, Color

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import TokenizerFolder

DECODER_SETTINGS = ("rounds", "flow_steps", "decoder_guidance", "decoder_temperature", "solver")


@dataclass(frozen=True)
class Fitting:
    """How images come to a size of the model: see `v2flow_engine.fitting`. size: "WxH" in pixels."""

    size: str
    fit: str
    pad_color: Color | None

    @property
    def ground(self) -> Color:
        """What transparent parts are laid on."""
        return self.pad_color or WHITE

    @property
    def pad_color_name(self) -> str | None:
        """#rrggbb, as it is kept beside codes and pictures."""
        return None if self.pad_color is None else "#{:02x}{:02x}{:02x}".format(*self.pad_color)

    def to_dict(self) -> dict[str, Any]:
        """Keyword arguments of `ImageTokenizer`."""
        return {"size": self.size, "fit": self.fit, "pad_color": self.pad_color}


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Declare --model."""
    from v2flow_engine.generation.pipeline import DEFAULT_MODEL

    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME|DIR", help="name or folder (%(default)s)"
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Declare --model and --batch-size."""
    add_model_option(parser)
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="B", help="images at once (%(default)s)"
    )


def add_images(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """Declare the images, and the options for bringing them to the model's size."""
    parser.add_argument(
        "images", nargs=nargs, metavar="IMAGE", help="files of any format that Pillow reads, folders, globs"
    )
    add_fitting_options(parser)


def add_fitting_options(parser: argparse.ArgumentParser) -> None:
    """Declare --size, --fit and --pad-color."""
    group = parser.add_argument_group(
        "images of any size",
        "EXIF orientation is applied; of an animation, it is the first frame.",
    )
    group.add_argument("--size", metavar="WxH", help="one of the model's; its default size if not given")
    group.add_argument(
        "--fit",
        choices=FITS,
        help="crop: scale until the short side fits, cut out the centre; pad: scale until the long side fits, "
        "fill the rest; stretch: scale both sides (crop)",
    )
    group.add_argument(
        "--pad-color",
        metavar="COLOR",
        help="white, #ffcc00, ...: fills the rest and lies under what is transparent (padding: the mean colour "
        "of the image's border pixels; under what is transparent: white)",
    )


def add_decoder_options(parser: argparse.ArgumentParser) -> None:
    """Declare --seed and the decoder's settings."""
    group = parser.add_argument_group("the decoder; its settings default to the model's own")
    group.add_argument(
        "--seed", type=int, default=0, help="of the first picture's noise, +1 for each (%(default)s)"
    )
    group.add_argument("--rounds", type=int, metavar="R", help="of the masked decoder")
    group.add_argument("--flow-steps", type=int, metavar="F", help="solver steps in each round")
    group.add_argument(
        "--decoder-guidance", type=float, metavar="G", help="how strongly the codes rule; 1 is unguided"
    )
    group.add_argument(
        "--decoder-temperature", type=float, metavar="T", help="scale of the noise; less noise, less variety"
    )
    group.add_argument("--solver", choices=SOLVERS, help="of the velocity field; dopri5 chooses its steps")


def checked_model(args: argparse.Namespace) -> TokenizerFolder:
    """The model folder, its weight files whole. Raises `V2FlowError`."""
    from v2flow_engine.checkpoint import open_tokenizer
    from v2flow_engine.generation.image_tokenizer import MAX_BATCH
    from v2flow_engine.generation.limits import check_whole
    from v2flow_engine.generation.model_files import check_weight_files

    check_whole("--batch-size", args.batch_size, 1, MAX_BATCH)
    folder = open_tokenizer(args.model)
    check_weight_files(folder)
    return folder


def checked_fitting(args: argparse.Namespace, folder: TokenizerFolder) -> Fitting:
    """Raises `RequestError` for a size that the model has not and for what is no colour."""
    size = args.size or folder.config.default_size
    folder.grid_of(size)
    pad_color = None if args.pad_color is None else parse_color(args.pad_color)
    return Fitting(size, args.fit or "crop", pad_color)


def checked_decoder_settings(
    args: argparse.Namespace, folder: TokenizerFolder, *sizes: str
) -> dict[str, Any]:
    """The decoder's settings as given, None where not, fit for each size.

    Raises `RequestError`.
    """
    from v2flow_engine.generation.parameters import GenerationParameters

    settings = {name: getattr(args, name) for name in DECODER_SETTINGS}
    for size in sizes:
        GenerationParameters.resolve(folder, size=size, **settings)
    return settings
