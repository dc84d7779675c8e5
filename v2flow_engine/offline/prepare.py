"""The arguments of `v2flow generate` -> a checked job: what to make and where, and what is missing there.

Finds whatever a user can get wrong before a file is created or an engine starts, reading the input once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.config import MAX_SEED
from v2flow_engine.errors import DataError, RequestError
from v2flow_engine.offline.sources import FlagSource, Source, open_source

if TYPE_CHECKING:
    from v2flow_engine.offline.planning import BadRow, Picture, Planner
    from v2flow_engine.offline.resume import Finished, Survey
    from v2flow_engine.offline.sink import OutputFormat


@dataclass(frozen=True)
class GenerateJob:
    """A checked command. model: for the actors, a name, a folder or a URL. dtype: of both stages, see `precision`.
    identity: what names the model, and a dtype that was asked for, in a manifest.
    """

    model: str
    dtype: str
    identity: dict[str, Any]
    source: Source
    planner: Planner
    survey: Survey
    out: Path
    output: OutputFormat

    def pictures(self, finished: Finished, on_bad: Callable[[BadRow], None]) -> Iterator[Picture]:
        """All pictures, finished ones too, one after the other; rows that can't be made go to `on_bad`."""
        from v2flow_engine.offline.planning import BadRow

        for each in self.planner.plan(self.source.rows()):
            if isinstance(each, BadRow):
                on_bad(each)
            elif finished.holds(each) or (bad := self.planner.check_prompt(each)) is None:
                yield each
            else:
                on_bad(bad)


def check(args: argparse.Namespace) -> GenerateJob:
    """Everything that can be found wrong before anything is created or started. Raises `V2FlowError`."""
    from v2flow_engine.checkpoint import is_embedded
    from v2flow_engine.generation.limits import check_whole
    from v2flow_engine.generation.model_files import check_weight_files, model_digest
    from v2flow_engine.offline.model_source import is_remote, open_model_anywhere
    from v2flow_engine.offline.planning import CommandSettings, Planner
    from v2flow_engine.offline.resume import Survey, read_finished, refuse_changes
    from v2flow_engine.offline.sink import OutputFormat, check_out
    from v2flow_engine.precision import named_dtype

    for name, most in (("token_actors", 1024), ("decoder_actors", 1024), ("shard_size", 10**7)):
        if getattr(args, name) is not None:
            check_whole(f"--{name.replace('_', '-')}", getattr(args, name), 1, most)
    check_whole("seed", args.seed, 0, MAX_SEED)
    output = OutputFormat.of(args.format, args.image_format, **_shard_limits(args))
    folder = open_model_anywhere(args.model)
    check_weight_files(folder)
    identity = {"model": folder.config.name, "model_digest": model_digest(folder)} | named_dtype(args.dtype)
    overrides = {name: getattr(args, argument) for argument, name in _PARAMETERS.items()}
    settings = CommandSettings(check_whole("n", args.n, 1, 10**6), args.seed, args.prompt_column, overrides)
    planner = Planner(folder, settings, identity, output.label)
    source = FlagSource(args.prompt) if args.prompt else open_source(args.prompts, args.input_format)
    check_out(args.out)
    finished = read_finished(args.out)
    survey = Survey.of(planner.plan(source.rows()), finished, planner.check_prompt)
    _check_rows(args, source, survey)
    if survey.first_changed is not None and not args.force_new:
        described = planner.described(survey.first_changed.request.parameters)
        refuse_changes(args.out, survey, described, output.label)
    # An embedded one is found by its name wherever the package is, in a folder of that machine's.
    model = args.model if is_remote(args.model) or is_embedded(args.model) else str(folder.path.absolute())
    return GenerateJob(model, args.dtype, identity, source, planner, survey, args.out, output)


# argument -> generation parameter
_PARAMETERS = {
    "size": "size",
    "guidance": "guidance_scale",
    "guidance_schedule": "guidance_schedule",
    "temperature": "temperature",
    "top_k": "top_k",
    "rounds": "rounds",
    "flow_steps": "flow_steps",
    "decoder_temperature": "decoder_temperature",
    "solver": "solver",
}
_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9}


def _shard_limits(args: argparse.Namespace) -> dict[str, int]:
    limits = {}
    if args.shard_size is not None:
        limits["shard_pictures"] = args.shard_size
    if args.shard_bytes is not None:
        limits["shard_bytes"] = _bytes(args.shard_bytes)
    return limits


def _bytes(text: str) -> int:
    """ "500MB" -> 500,000,000. Raises `RequestError`."""
    number, unit = text.strip().lower(), 1
    for name, factor in _UNITS.items():
        if number.endswith(name):
            number, unit = number.removesuffix(name), factor
    try:
        value = int(float(number) * unit)
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise RequestError(f"--shard-bytes must be a size such as 500MB or 2GB, got {text!r}")
    return value


def _check_rows(args: argparse.Namespace, source: Source, survey: Survey) -> None:
    if survey.rows == 0:
        raise DataError(f"{source.name}: holds no prompt (one per line; # begins a comment)")
    if survey.first_bad is not None and (args.prompt or survey.first_good is None):
        raise RequestError(survey.first_bad.reason)
    if args.max_errors is not None and survey.bad > args.max_errors:
        raise RequestError(
            f"{survey.bad} of {survey.rows} rows can't be made, more than --max-errors {args.max_errors}; the first: "
            f"{survey.first_bad.reason if survey.first_bad else ''}"
        )
