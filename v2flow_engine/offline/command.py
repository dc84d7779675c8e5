"""`v2flow generate`: prompts from flags or a file -> a folder of pictures, a manifest and a contact sheet.

Checks everything that a user can get wrong before it creates a file or starts an engine. Running it again on
the same folder makes what is missing.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from v2flow_engine.config import SOLVERS
from v2flow_engine.errors import EngineDeadError, RequestError
from v2flow_engine.guidance import SCHEDULES
from v2flow_engine.images import FORMATS
from v2flow_engine.offline.sources import SourcePrompt, prompts_from_file, prompts_from_flags

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.generation.image_request import ImageRequest
    from v2flow_engine.offline.progress import Progress
    from v2flow_engine.offline.sink import Sink
    from v2flow_engine.offline.stages import FinishedImage

HELP = "Make pictures from prompts, into a folder. Running it again on the same folder makes what is missing."
RAY_FROM = 8  # pictures; below, Ray would take longer to start than to be of use


@dataclass(frozen=True)
class Plan:
    """A checked command: what to make and where, what is missing there, and what can't be made."""

    folder: ModelFolder
    requests: list[ImageRequest]
    todo: list[ImageRequest]
    bad: list[tuple[ImageRequest, str]]
    out: Path
    image_format: str
    parameters: dict[str, Any]
    token_actors: int | None
    decoder_actors: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `v2flow generate`."""
    from v2flow_engine.generation.pipeline import DEFAULT_MODEL

    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or folder (default: %(default)s)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; may be repeated")
    source.add_argument(
        "--prompts", metavar="FILE", help="a text file with a prompt per line; - is standard input"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder for pictures and manifest"
    )
    parser.add_argument("--format", choices=FORMATS, default="png", help="(default: %(default)s)")
    parser.add_argument("--n", type=int, default=1, help="pictures of each prompt (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first picture, +1 for each (default: %(default)s)"
    )
    model = parser.add_argument_group("settings that default to the model's own")
    model.add_argument("--size", metavar="WxH", help="in pixels")
    model.add_argument(
        "--guidance", type=float, metavar="G", help="how strongly the prompt rules; 1 is unguided"
    )
    model.add_argument(
        "--guidance-schedule",
        choices=SCHEDULES,
        help="linear: guidance grows from 1 over the image's tokens",
    )
    model.add_argument(
        "--temperature", type=float, metavar="T", help="of the LLM; 0 takes the likeliest token"
    )
    model.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens; 0 is all")
    model.add_argument("--rounds", type=int, metavar="R", help="of the masked decoder")
    model.add_argument("--flow-steps", type=int, metavar="F", help="solver steps in each round")
    model.add_argument(
        "--decoder-temperature",
        type=float,
        metavar="T",
        help="scale of the decoder's noise; less, less variety",
    )
    model.add_argument("--solver", choices=SOLVERS, help="of the velocity field; dopri5 chooses its steps")
    ray = parser.add_argument_group(
        f"Ray Data, used from {RAY_FROM} pictures on or when one of these is given"
    )
    ray.add_argument("--token-actors", type=int, metavar="A", help="processes that run the LLM")
    ray.add_argument("--decoder-actors", type=int, metavar="D", help="processes that run the decoder")


def run(args: argparse.Namespace) -> int:
    """Returns 0, 1 if some pictures could not be made, 130 if interrupted. Raises `V2FlowError`."""
    job = check(args)
    from v2flow_engine.offline.cluster import quiet_output
    from v2flow_engine.offline.progress import Progress
    from v2flow_engine.offline.sink import open_sink

    with ExitStack() as stack:
        stack.enter_context(sigterm_as_interrupt())
        stderr = stack.enter_context(quiet_output())
        sink = stack.enter_context(open_sink(job.out, job.image_format, job.parameters))
        for request, error in job.bad:
            sink.fail(request, error)
        done = len(job.requests) - len(job.todo)
        with Progress(len(job.requests), done, stderr) as progress:
            try:
                stopped = _make(job, sink, progress)
            except KeyboardInterrupt:
                stopped = "interrupted"
        return _finish(job, sink, progress, stopped)


def check(args: argparse.Namespace) -> Plan:
    """Everything that can be found wrong before anything is created or started. Raises `V2FlowError`."""
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.generation.image_request import plan_requests
    from v2flow_engine.generation.limits import check_whole
    from v2flow_engine.generation.model_files import check_weight_files
    from v2flow_engine.generation.parameters import GenerationParameters
    from v2flow_engine.generation.pipeline import describe_parameters
    from v2flow_engine.offline.manifest import read_manifest, requests_to_do
    from v2flow_engine.offline.sink import SUFFIX_OF, check_out

    for name in ("token_actors", "decoder_actors"):
        if getattr(args, name) is not None:
            check_whole(f"--{name.replace('_', '-')}", getattr(args, name), 1, 1024)
    folder = open_model(args.model)
    check_weight_files(folder)
    parameters = GenerationParameters.resolve(
        folder,
        size=args.size,
        guidance_scale=args.guidance,
        guidance_schedule=args.guidance_schedule,
        temperature=args.temperature,
        top_k=args.top_k,
        rounds=args.rounds,
        flow_steps=args.flow_steps,
        decoder_temperature=args.decoder_temperature,
        solver=args.solver,
    )
    sources = prompts_from_flags(args.prompt) if args.prompt else prompts_from_file(args.prompts)
    planned = plan_requests([source.text for source in sources], parameters, n=args.n, seed=args.seed)
    bad = unusable(folder, sources, planned, args.n)
    if bad and (args.prompt or len(bad) == len(planned)):
        raise RequestError(bad[0][1])
    unusable_ids = {request.index for request, _ in bad}
    requests = [request for request in planned if request.index not in unusable_ids]
    check_out(args.out)
    described = describe_parameters(folder, parameters)
    todo = requests_to_do(args.out, read_manifest(args.out), requests, described, SUFFIX_OF[args.format])
    return Plan(
        folder, requests, todo, bad, args.out, args.format, described, args.token_actors, args.decoder_actors
    )


def unusable(
    folder: ModelFolder, sources: Sequence[SourcePrompt], requests: Sequence[ImageRequest], n: int
) -> list[tuple[ImageRequest, str]]:
    """The requests whose prompt the model cannot take, each with where it came from and why."""
    bad = []
    for number, source in enumerate(sources):
        own = requests[number * n : (number + 1) * n]
        try:
            folder.prompt_encoder.encode(source.text, own[0].parameters.size)
        except RequestError as error:
            bad += [(request, f"{source.origin}: {error}") for request in own]
    return bad


def _make(job: Plan, sink: Sink, progress: Progress) -> str:
    """Make what is to do; returns why it stopped early, or ""."""
    if not job.todo:
        return ""
    requests = {request.index: request for request in job.todo}
    with ExitStack() as stack:
        try:
            for finished in _stream(job, progress, stack):
                sink.write(requests[finished.index], finished)
                progress.advance(failed=bool(finished.error))
        except EngineDeadError as error:
            return f"stopped: {error}"
    return ""


def _stream(job: Plan, progress: Progress, stack: ExitStack) -> Iterator[FinishedImage]:
    """The finished images, from Ray Data or from this process, and a line that says which and why."""
    asked = job.token_actors is not None or job.decoder_actors is not None
    if len(job.todo) < RAY_FROM and not asked:
        progress.say(f"{_images(len(job.todo))} in this process: Ray Data starts from {RAY_FROM} on")
        return _stream_here(job)
    from v2flow_engine.offline.cluster import ray_cluster

    progress.say(f"{_images(len(job.todo))} through Ray Data; starting it")
    try:
        logs = stack.enter_context(ray_cluster())
    except EngineDeadError as error:
        if asked or os.environ.get("RAY_ADDRESS"):
            raise
        progress.say(f"{error}; going on in this process")
        return _stream_here(job)
    return _stream_ray(job, progress, logs)


def _stream_here(job: Plan) -> Iterator[FinishedImage]:
    from v2flow_engine.offline.single_process import run_here

    return run_here(job.folder.path, job.todo, job.image_format, job.parameters)


def _stream_ray(job: Plan, progress: Progress, logs: str) -> Iterator[FinishedImage]:
    from v2flow_engine.offline.job import Job, run_on_ray

    wishes = job.token_actors, job.decoder_actors
    ray_job = Job(job.folder.path, job.todo, job.image_format, job.parameters, *wishes)
    sizing = ray_job.sizing()
    progress.say(
        f"token actors {sizing.token_actors}, decoder actors {sizing.decoder_actors}, batches of up to "
        f"{sizing.rows_per_batch}; loading the model"
    )
    return run_on_ray(ray_job, sizing, logs)


def _finish(job: Plan, sink: Sink, progress: Progress, stopped: str) -> int:
    """Account for every picture, write the sheet, say where it is; returns the exit status."""
    from v2flow_engine.offline.sheet import write_sheet

    kept = [request for request in job.requests if request.index in sink.entries]
    if stopped and stopped != "interrupted":
        for request in job.todo:
            if request.index not in sink.entries and request.index not in sink.errors:
                sink.fail(request, stopped)
    errors = [sink.errors[i] for i in sorted(sink.errors)]
    made = progress.done - progress.initial - progress.failed
    seconds = progress.seconds
    if stopped:
        progress.say(f"{stopped}; {_images(len(kept))} of {len(job.requests)} kept, run it again to go on")
    if errors:
        progress.say(
            f"{_images(len(errors))} failed, the first: {errors[0]['error']} (all in {job.out}/errors.jsonl)"
        )
    if sink.entries:
        sheet = write_sheet(job.out, [sink.entries[i] for i in sorted(sink.entries)], errors)
        rate = f" in {seconds:.1f} s, {made / seconds:.2f} images/s" if made else ""
        nothing = "" if made or stopped or errors else ", none missing"
        progress.say(f"{_images(made)}{rate}{nothing}; see {sheet}")
    if stopped == "interrupted":
        return 130
    return 1 if errors else 0


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let a polite kill end a job as Ctrl-C does, its finished pictures kept."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
