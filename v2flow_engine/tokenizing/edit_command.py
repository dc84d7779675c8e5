"""`v2flow edit`: an image, a mask and a prompt -> the image with the masked part drawn anew, several times.

original | mask | result
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from v2flow_engine.guidance import SCHEDULES
from v2flow_engine.tokenizing.options import (
    add_decoder_options,
    add_fitting_options,
    add_model_option,
    checked_fitting,
)

if TYPE_CHECKING:
    from v2flow_engine.generation.editing import EditedImage, EditPlan
    from v2flow_engine.tokenizing.batches import Origin
    from v2flow_engine.tokenizing.output import PictureFolder

HELP = (
    "Draw a part of an image anew, as a prompt says: the LLM writes the visual tokens that the mask touches, the "
    "decoder draws their latents, and everything else stays as it is."
)
COLUMNS = ("original", "mask", "result")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("image", metavar="IMAGE", help="a file of any format that Pillow reads")
    parser.add_argument(
        "--mask",
        type=Path,
        metavar="MASK",
        help="an image of the same size: white is drawn anew, or, if it has transparent parts, these; without it, "
        "the transparent parts of IMAGE",
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what the whole picture shows")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    add_model_option(parser)
    parser.add_argument("--n", type=int, default=1, help="pictures to make (%(default)s)")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="the decoder's pixels everywhere, in place of the original's own outside the mask",
    )
    add_fitting_options(parser)
    group = parser.add_argument_group("the LLM; its settings default to the model's own")
    group.add_argument(
        "--guidance", type=float, metavar="G", help="how strongly the prompt rules; 1 is unguided"
    )
    group.add_argument(
        "--guidance-schedule",
        choices=SCHEDULES,
        help="linear: guidance grows from 1 over the image's tokens",
    )
    group.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest token")
    group.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens; 0 is all")
    add_decoder_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises `V2FlowError`. Picture k of n has the seed `seed + k`."""
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.generation.editing import plan_edit, run_edit
    from v2flow_engine.generation.model_files import check_weight_files
    from v2flow_engine.generation.pipeline import Pipeline
    from v2flow_engine.reading import read_image
    from v2flow_engine.tokenizing.batches import Origin
    from v2flow_engine.tokenizing.output import PictureFolder, check_new_folder

    folder = open_model(args.model)
    check_weight_files(folder)
    fitting = checked_fitting(args, folder)
    image = read_image(args.image)
    plan = plan_edit(
        folder,
        image,
        None if args.mask is None else read_image(args.mask),
        args.prompt,
        n=args.n,
        seed=args.seed,
        **fitting.to_dict(),
        guidance_scale=args.guidance,
        guidance_schedule=args.guidance_schedule,
        temperature=args.temperature,
        top_k=args.top_k,
        rounds=args.rounds,
        flow_steps=args.flow_steps,
        decoder_guidance=args.decoder_guidance,
        decoder_temperature=args.decoder_temperature,
        solver=args.solver,
    )
    check_new_folder(args.out)
    print(told(plan, args.rounds), file=sys.stderr)
    with Pipeline.from_pretrained(folder.path) as pipeline:
        made = run_edit(pipeline, plan, raw=args.raw)
    origin = Origin.of(0, args.image, image, fitting)
    out = PictureFolder(args.out, "edit", COLUMNS)
    for number, picture in enumerate(made):
        write_edited(out, origin, number, picture, args.mask)
    print(f"made {out.written}; see {out.write_sheet(f'Edited: {args.prompt}', out.written)}")
    return 0


def told(plan: EditPlan, rounds: int | None) -> str:
    """What is about to be drawn anew, in one line."""
    line = f"{int(plan.cells.sum())} of {plan.cells.size} visual tokens are written anew"
    used = plan.requests[0].parameters.rounds
    return line if rounds in (None, used) else f"{line}, in {used} rounds: they have no more latent positions"


def write_edited(
    out: PictureFolder, origin: Origin, number: int, picture: EditedImage, mask: Path | None
) -> None:
    """The picture, its line of the manifest and its row of the sheet."""
    out.write(
        picture.image,
        origin,
        picture.seed,
        picture.parameters,
        number=number,
        prompt=picture.prompt,
        mask=None if mask is None else str(mask),
    )
    shown = [picture.original, picture.mask.convert("RGB"), picture.image]
    out.show(shown, [picture.prompt, f"seed {picture.seed}"])
