"""`v2flow report OUT`: one page that says how a job of `v2flow generate` went, finished or not."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = (
    "Write one HTML page about a folder that v2flow generate filled: samples, settings, speed over time, what failed. "
    "It opens without a network. The job may be running, stopped or finished."
)
REPORT = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("directory", type=Path, metavar="OUT", help="--out of v2flow generate")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the page (default: OUT/{REPORT})")
    parser.add_argument(
        "--samples",
        type=int,
        default=48,
        metavar="N",
        help="pictures shown, 0 to 1000 (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Write it and say where it is. Raises `V2FlowError`."""
    from v2flow_engine.errors import RequestError
    from v2flow_engine.files import check_file, told_as_output_error, write_whole
    from v2flow_engine.offline.report.collect import summarize
    from v2flow_engine.offline.report.page import build_page

    if not 0 <= args.samples <= 1000:
        raise RequestError(f"--samples must be between 0 and 1000, got {args.samples}")
    target = args.out or args.directory / REPORT
    summary = summarize(args.directory, args.samples)
    check_file(target)
    page = build_page(args.directory, summary)
    with told_as_output_error(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, page.encode(errors="backslashreplace"))  # what failed may be no Unicode
    print(f"wrote    {target}")
    return 0
