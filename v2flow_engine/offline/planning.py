"""Rows of the input + the command's settings -> the pictures to make, and the rows that can't be made.

The one place that knows what a column means. Seeds are given out as in `plan_requests`: picture k of the job gets
`seed + k`; a row with a seed of its own counts from that. Knows nothing of files or engines.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from v2flow_engine.config import MAX_SEED
from v2flow_engine.errors import RequestError
from v2flow_engine.generation.image_request import MAX_IMAGES_PER_PROMPT, ImageRequest
from v2flow_engine.generation.limits import check_whole
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.offline.identity import KeySet, fingerprint_of, key_of
from v2flow_engine.offline.sources import SourceRow

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder

# column -> (name of the generation parameter, its kind)
SETTINGS: dict[str, tuple[str, str]] = {
    "size": ("size", "text"),
    "guidance": ("guidance_scale", "number"),
    "guidance_schedule": ("guidance_schedule", "text"),
    "temperature": ("temperature", "number"),
    "top_k": ("top_k", "whole"),
    "rounds": ("rounds", "whole"),
    "flow_steps": ("flow_steps", "whole"),
    "decoder_guidance": ("decoder_guidance", "number"),
    "decoder_temperature": ("decoder_temperature", "number"),
    "solver": ("solver", "text"),
    "negative_prompt": ("negative_prompt", "text"),
}
MAX_ID = 512
_MAX_CACHED = 4096


@dataclass(frozen=True)
class Picture:
    """A picture to make. id: the row's, "#j" added for copy j > 0; without one its place in the job.

    extra: the row's further columns. key, fingerprint: see `identity`.
    """

    request: ImageRequest
    id: int | str
    row: SourceRow
    extra: dict[str, Any]
    key: int
    fingerprint: int


@dataclass(frozen=True)
class BadRow:
    """A row that can't be made. index: of its first picture; count: how many pictures it stands for."""

    row: SourceRow
    reason: str
    index: int
    count: int


@dataclass(frozen=True)
class CommandSettings:
    """What the command says for all rows. overrides: generation parameters by their names, None for the model's."""

    n: int = 1
    seed: int = 0
    prompt_column: str = "prompt"
    overrides: Mapping[str, Any] = field(default_factory=dict)


class Planner:
    """Plans the rows of one job.

    Args:
        folder: of the model.
        settings: the command's.
        model: what names the model in every picture's parameters.
        image_format: see `identity.fingerprint_of`.
    """

    def __init__(
        self, folder: ModelFolder, settings: CommandSettings, model: dict[str, Any], image_format: str
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.model = model
        self.image_format = image_format
        self._cache: dict[tuple, GenerationParameters] = {}
        self.resolve({})  # what is wrong with the command itself is raised here

    def plan(self, rows: Iterable[SourceRow]) -> Iterator[Picture | BadRow]:
        """Every row in order, as its pictures or as one bad row. Ids that come twice are found."""
        seen = KeySet()
        index = 0
        for row in rows:
            n = self.settings.n
            try:
                if row.problem:
                    raise RequestError(row.problem)
                n = _value(row.columns, "n", "whole", self.settings.n)
                n = check_whole("n", n, 1, MAX_IMAGES_PER_PROMPT)
                yield from self._pictures(row, index, n, seen)
            except RequestError as error:
                if not 0 < n <= MAX_IMAGES_PER_PROMPT:
                    n = 1
                yield BadRow(row, f"{row.origin}: {error}", index, n)
            index += n

    def check_prompt(self, picture: Picture) -> BadRow | None:
        """None if the model can take the prompt. Kept apart because it tokenizes, which takes most of the time."""
        request = picture.request
        try:
            self.folder.prompt_encoder.encode(request.prompt, request.parameters.size)
        except RequestError as error:
            return BadRow(picture.row, f"{picture.row.origin}: {error}", request.index, 1)
        return None

    def resolve(self, overrides: dict[str, Any]) -> GenerationParameters:
        """The command's parameters with a row's over them. Raises `RequestError`."""
        cache_key = tuple(overrides.items())
        parameters = self._cache.get(cache_key)
        if parameters is None:
            merged = dict(self.settings.overrides) | overrides
            parameters = GenerationParameters.resolve(self.folder, **merged)
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[cache_key] = parameters
        return parameters

    def described(self, parameters: GenerationParameters) -> dict[str, Any]:
        """The `parameters` object of a picture's metadata and manifest line."""
        return self.model | parameters.to_dict()

    def _pictures(self, row: SourceRow, index: int, n: int, seen: KeySet) -> Iterator[Picture]:
        """One after the other, for n may be large; what is wrong with the row is raised before the first one."""
        columns = row.columns
        prompt = _prompt(columns, self.settings.prompt_column)
        own_seed = _value(columns, "seed", "whole", None)
        first = self.settings.seed + index if own_seed is None else check_whole("seed", own_seed, 0, MAX_SEED)
        check_whole("seed of the last picture (seed + number of pictures - 1)", first + n - 1, 0, MAX_SEED)
        overrides = {
            name: value
            for column, (name, kind) in SETTINGS.items()
            if (value := _value(columns, column, kind, None)) is not None
        }
        parameters = self.resolve(overrides)
        row_id = _row_id(columns)
        described = self.described(parameters)
        used = {self.settings.prompt_column, "id", "seed", "n", *SETTINGS}
        extra = {str(k): _plain(v) for k, v in columns.items() if k not in used}
        _check_unicode("id", row_id)
        _check_unicode("a further column", extra)
        if row_id is not None:  # last: a row that can't be made must not keep its id from a later one
            _claim(row_id, n, seen)
        for copy in range(n):
            request = ImageRequest(index + copy, prompt, first + copy, parameters)
            picture_id = request.index if row_id is None else _copy_id(row_id, copy)
            fingerprint = fingerprint_of(prompt, request.seed, described, self.image_format)
            yield Picture(request, picture_id, row, extra, key_of(picture_id), fingerprint)


def _copy_id(row_id: str, copy: int) -> str:
    return f"{row_id}#{copy}" if copy else row_id


def _claim(row_id: str, n: int, seen: KeySet) -> None:
    """Note the ids of a row's pictures; raises `RequestError` if one of them was there before."""
    for copy in range(n):
        if key_of(_copy_id(row_id, copy)) in seen:
            raise RequestError(
                f"the id {_copy_id(row_id, copy)!r} is that of an earlier row too; ids must differ"
            )
    for copy in range(n):
        seen.add(key_of(_copy_id(row_id, copy)))


def _prompt(columns: Mapping[str, Any], column: str) -> str:
    if column not in columns:
        raise RequestError(f"no column {column!r}; there are {sorted(map(str, columns))}")
    prompt = columns[column]
    if not isinstance(prompt, str):
        raise RequestError(f"the prompt must be text, got {prompt!r}")
    _check_unicode("a prompt", prompt)
    return prompt


def _check_unicode(what: str, value: Any) -> None:
    """Raise `RequestError` for text that no UTF-8 file can hold: half a surrogate pair, bytes of another encoding."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{what} must be valid Unicode text, got {value!r}") from error


def _row_id(columns: Mapping[str, Any]) -> str | None:
    value = columns.get("id")
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)) or len(str(value)) > MAX_ID:
        raise RequestError(
            f"an id must be text of at most {MAX_ID} characters or a whole number, got {value!r}"
        )
    return str(value)


def _value(columns: Mapping[str, Any], column: str, kind: str, default: Any) -> Any:
    """A column's value in its kind, text in a CSV file included; empty is absent. Raises `RequestError`."""
    value = columns.get(column)
    if value is None or value == "":
        return default
    try:
        return _KINDS[kind](value)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = {"whole": "a whole number", "number": "a number", "text": "text"}[kind]
        raise RequestError(f"{column} must be {wanted}, got {value!r}") from error


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_KINDS: dict[str, Callable[[Any], Any]] = {"whole": _whole, "number": _number, "text": _text}


def _plain(value: Any) -> Any:
    """A passthrough value as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)
