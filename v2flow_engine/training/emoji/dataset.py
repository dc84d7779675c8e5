"""Settings -> a finished dataset folder: shards and dataset.json, or nothing at all.

Shards are written in a hidden folder inside the output and moved to their places together at the end, so a
failure leaves no shard behind. Does not know the command line, nor where packages come from.
"""

import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

from v2flow_engine.errors import DataError, OutputError
from v2flow_engine.training.emoji import sources
from v2flow_engine.training.emoji.catalogue import load_catalogue, select
from v2flow_engine.training.emoji.compose import DEFAULT_SIZE, PALETTE, counts_of, sprite_size
from v2flow_engine.training.emoji.plan import Plan, plan_all, plan_random, shuffle_plan
from v2flow_engine.training.emoji.shards import Shard, cut_into_shards, write_shard
from v2flow_engine.training.emoji.splits import SPLITS
from v2flow_engine.training.emoji.sprites import load_sprites
from v2flow_engine.training.emoji.wordings import add_wordings

FORMAT_VERSION = 1
DESCRIPTION_NAME = "dataset.json"
_BUILDING_PREFIX = ".building-"

Report = Callable[[str], None]


@dataclass(frozen=True)
class DatasetSettings:
    """Everything that the content depends on.

    images: None means every combination once. emoji: labels to take, in any order; None takes all. wordings: whether
    records carry wordings, and captions have them.
    """

    images: int | None = 60_000
    size: str = DEFAULT_SIZE
    background: str = "palette"
    seed: int = 0
    shard_size: int = 2_000
    emoji: tuple[str, ...] | None = None
    wordings: bool = False

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise DataError(f"--images is {self.images}; expected at least 1")
        counts_of(self.size)
        if self.shard_size < 1:
            raise DataError(f"--shard-size is {self.shard_size}; expected at least 1")
        if self.background not in ("palette", "random", *PALETTE):
            raise DataError(f"--background {self.background!r} is unknown; expected {background_choices()}")
        if self.images is None and self.background == "random":
            raise DataError("--all-combinations needs the colours of the palette, not --background random")


def background_choices() -> str:
    """The possible values of --background, for messages."""
    return f"palette, random, {', '.join(PALETTE)}"


def finished_description(out: Path) -> dict | None:
    """What dataset.json of a folder says, or None if there is none."""
    path = out / DESCRIPTION_NAME
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def is_same(description: dict, settings: DatasetSettings) -> bool:
    """Whether a finished dataset was made with these settings from these packages."""
    keys = ("format_version", "settings", "packages")
    return [description.get(key) for key in keys] == [_identity(settings)[key] for key in keys]


def build_dataset(
    settings: DatasetSettings, out: Path, packages_dir: Path, workers: int, report: Report
) -> dict:
    """Writes the dataset into `out`, in place of any that is there; returns the content of dataset.json."""
    report("drawing sprites (kept beside the packages for the next time)")
    load_sprites(packages_dir, sprite_size(settings.size), workers)
    plan = make_plan(settings, packages_dir)
    description = {**_identity(settings), **_describe_content(plan)}
    _remove_leftovers(out)
    try:
        with tempfile.TemporaryDirectory(prefix=_BUILDING_PREFIX, dir=out) as name:
            building = Path(name)
            shards = cut_into_shards(plan, settings.shard_size)
            _write_shards(shards, settings, packages_dir, building, workers, report)
            (building / DESCRIPTION_NAME).write_text(json.dumps(description, indent=2) + "\n")
            _move_into_place(building, out)
    except OSError as error:
        raise OutputError(f"cannot write the dataset to {out}: {error.strerror or error}") from error
    return description


def make_plan(settings: DatasetSettings, packages_dir: Path) -> Plan:
    """The pictures that these settings ask for, by split and in order."""
    catalogue = load_catalogue(packages_dir)
    if settings.emoji is not None:
        catalogue = select(catalogue, settings.emoji)
    if settings.wordings:
        catalogue = add_wordings(catalogue, packages_dir)
    if settings.images is not None:
        counts = counts_of(settings.size)
        return plan_random(catalogue, settings.images, settings.background, settings.seed, counts)
    plan = plan_all(catalogue, counts_of(settings.size))
    if settings.background != "palette":
        plan = {
            split: [p for p in each if p.background_name == settings.background]
            for split, each in plan.items()
        }
    return shuffle_plan(plan, settings.seed)


def shard_paths(out: Path) -> list[Path]:
    """The shards of a dataset folder, whichever split, in order."""
    return sorted(path for split in SPLITS for path in out.glob(f"{split}-??????.tar"))


def _identity(settings: DatasetSettings) -> dict:
    named = json.loads(json.dumps(asdict(settings)))
    if not settings.wordings:  # so that a dataset without them is described as it was before there were any
        del named["wordings"]
    return {
        "format_version": FORMAT_VERSION,
        "settings": named,
        "packages": [
            {key: getattr(each, key) for key in ("name", "version", "licence", "author", "role", "sha256")}
            for each in sources.PACKAGES
        ],
    }


def _describe_content(plan: Plan) -> dict:
    return {
        "palette": {name: list(rgb) for name, rgb in PALETTE.items()},
        "images": {split: len(pictures) for split, pictures in plan.items()},
        "images_by_style": {
            split: dict(sorted(Counter(picture.style for picture in pictures).items()))
            for split, pictures in plan.items()
        },
    }


def _write_shards(
    shards: list[Shard],
    settings: DatasetSettings,
    packages_dir: Path,
    folder: Path,
    workers: int,
    report: Report,
) -> None:
    total = sum(len(shard.pictures) for shard in shards)
    start, done, size = time.monotonic(), 0, 0
    for shard, written in _run(
        shards, (str(packages_dir), settings.size, settings.seed, str(folder)), workers
    ):
        done, size = done + len(shard.pictures), size + written
        rate = done / max(time.monotonic() - start, 1e-9)
        report(f"{done:,} of {total:,} images, {rate:.0f} images/s, {size / done / 1000:.1f} kB each")


def _run(
    shards: list[Shard], context: tuple[str, str, int, str], workers: int
) -> Iterator[tuple[Shard, int]]:
    if workers <= 1 or len(shards) == 1:
        for shard in shards:
            yield shard, _write_one(shard, *context)
        return
    pool = ProcessPoolExecutor(min(workers, len(shards)), multiprocessing.get_context("spawn"))
    try:
        pending = {pool.submit(_write_one, shard, *context): shard for shard in shards}
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_one(shard: Shard, packages_dir: str, size: str, seed: int, folder: str) -> int:
    """Runs in a worker; the sprites are a memory map, so opening them for each shard is cheap."""
    sprites = load_sprites(Path(packages_dir), sprite_size(size))
    return write_shard(shard, sprites, size, seed, Path(folder))


def _move_into_place(building: Path, out: Path) -> None:
    """dataset.json goes first and comes back last: while it is there, the shards beside it are whole."""
    (out / DESCRIPTION_NAME).unlink(missing_ok=True)
    for path in shard_paths(out):
        path.unlink()
    for path in shard_paths(building):
        os.replace(path, out / path.name)
    os.replace(building / DESCRIPTION_NAME, out / DESCRIPTION_NAME)


def _remove_leftovers(out: Path) -> None:
    """Of a run that was killed before it could clean up."""
    for path in out.glob(f"{_BUILDING_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
