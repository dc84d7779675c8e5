"""A folder that `v2flow generate` filled -> what a report says of it: counts, settings, samples, errors, metrics.

Reads the manifest and the list of errors as streams: memory does not grow with the job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from v2flow_engine.errors import DataError
from v2flow_engine.offline.manifest import MANIFEST, ManifestEntry, iter_manifest
from v2flow_engine.offline.metrics import read_metrics
from v2flow_engine.offline.reading_back import ERRORS, iter_errors

MAX_VALUES = 12  # distinct values of a setting that are told apart
MAX_REASONS = 50
MAX_ERRORS = 100


@dataclass
class Summary:
    """pictures, image_bytes, files: what is there. seconds: of both stages for a picture, summed by stage.

    settings: setting -> its values with how many pictures have each, None where there are too many to tell apart.
    samples: spread evenly over the manifest. reasons: why rows failed, without what names the row. errors: the first
    lines of errors.jsonl. metrics: of the last run; empty if it left none.
    """

    pictures: int = 0
    image_bytes: int = 0
    files: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Counter[str] | None] = field(default_factory=dict)
    samples: list[ManifestEntry] = field(default_factory=list)
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    errors: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)


def summarize(directory: Path, samples: int) -> Summary:
    """Read everything once. Raises `DataError` for a folder that no job wrote, `OutputError` for a broken manifest."""
    if not directory.is_dir():
        raise DataError(f"{directory}: no such folder")
    if not any((directory / name).is_file() for name in (MANIFEST, ERRORS)):
        raise DataError(f"{directory}: has neither {MANIFEST} nor {ERRORS}: v2flow generate did not write it")
    summary = Summary(metrics=read_metrics(directory))
    for entry in iter_manifest(directory):
        _count(summary, entry)
        _keep_sample(summary, entry, samples)
    summary.samples = _spread(summary.samples, samples)
    summary.files = len(_files(directory))
    for error in iter_errors(directory):
        summary.failed += 1
        if len(summary.errors) < MAX_ERRORS:
            summary.errors.append(error)
        reason = reason_of(error)
        if reason in summary.reasons or len(summary.reasons) < MAX_REASONS:
            summary.reasons[reason] += 1
        else:
            summary.reasons["other reasons"] += 1
    return summary


def reason_of(error: dict[str, Any]) -> str:
    """Why a row failed, without the file and line that an input's error begins with."""
    text = str(error.get("error", "unknown"))
    origin, separator, rest = text.partition(": ")
    return rest if separator and any(c.isdigit() for c in origin) and " " not in origin.strip() else text


def _count(summary: Summary, entry: ManifestEntry) -> None:
    summary.pictures += 1
    summary.image_bytes += entry.bytes
    for stage, seconds in (entry.timings or {}).items():
        summary.seconds[stage] = summary.seconds.get(stage, 0.0) + seconds
    for name, value in (entry.parameters | {"format": entry.format or entry.image_format}).items():
        values = summary.settings.setdefault(name, Counter())
        if values is not None:
            values[str(value)] += 1
            if len(values) > MAX_VALUES:
                summary.settings[name] = None


def _keep_sample(summary: Summary, entry: ManifestEntry, most: int) -> None:
    """Every so-manieth picture; twice as rarely each time that there are twice too many."""
    stride = 1
    while summary.pictures > 2 * most * stride:
        stride *= 2
    if len(summary.samples) >= 2 * most:
        summary.samples = summary.samples[::2]
    if (summary.pictures - 1) % stride == 0:
        summary.samples.append(entry)


def _spread(entries: list[ManifestEntry], count: int) -> list[ManifestEntry]:
    if len(entries) <= count:
        return entries
    return [entries[i * len(entries) // count] for i in range(count)]


def _files(directory: Path) -> set[Path]:
    return {path for path in _walk(directory) if path.suffix in (".png", ".webp", ".jpg", ".tar", ".parquet")}


def _walk(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path
