"""Requests -> finished images through Ray Data: feed, token actors, decoder actors, an iterator here.

The pools, placement and retries are Ray's. Every request comes out once, as a picture or with an error, whatever
dies meanwhile: what a pass over the pipeline loses is fed again, as `backlog` says. In memory are the requests that are
under way, and no others.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from v2flow_engine import errors
from v2flow_engine.errors import EngineDeadError
from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.offline.actors import ActorConfig, DecoderActor, TokenActor, finished_images
from v2flow_engine.offline.backlog import Backlog
from v2flow_engine.offline.batches import by_size
from v2flow_engine.offline.block_figures import forget_block_figures
from v2flow_engine.offline.feed import FeedState, feed_dataset, start_feed
from v2flow_engine.offline.sizing import Sizing
from v2flow_engine.offline.stages import FinishedImage, describe_error
from v2flow_engine.offline.supply import Supply

if TYPE_CHECKING:
    from ray.data import Dataset

# A batch whose worker dies is given to another one this many times; then it counts as lost. Ray's default is for ever,
# so that a batch that needs more memory than there is would never end.
MAX_RETRIES = 1
# With more than these the pass ends: what was lost is looked into before the rest goes on.
MAX_LOST_BATCHES = 4
# Passes of which nothing came out, one after the other: then it is not the rows' fault.
MAX_IDLE_PASSES = 2
BATCHES_PER_ACTOR = 3  # one under way, one with the actor, one on its way


@dataclass
class RayRun:
    """One job on the cluster that Ray is connected to.

    config: for the actors. say: for a line that the user should read. logs: Ray's folder of logs.
    """

    config: ActorConfig
    say: Callable[[str], None] = lambda message: None
    logs: str = ""
    outstanding: dict[int, ImageRequest] = field(default_factory=dict)
    last_state: FeedState = field(default_factory=FeedState)
    _feed: Any = None
    _worked: bool = False  # whether anything came out of the last pass
    _died_with: frozenset[int] = frozenset()

    def images(self, requests: Iterable[ImageRequest], sizing: Sizing) -> Iterator[FinishedImage]:
        """`images_of` batches as `by_size` makes them."""
        return self.images_of(by_size(requests, sizing.rows_per_batch), sizing)

    def images_of(self, batches: Iterator[list[ImageRequest]], sizing: Sizing) -> Iterator[FinishedImage]:
        """Yield every picture as it is finished, in no particular order.

        Whatever `batches` raises is raised here, when all that came before is finished. Raises `EngineDeadError` if
        the actors cannot start, or die again and again with whatever they are given.
        """
        backlog, idle = Backlog(batches, self.outstanding), 0
        actors = sizing.token_actors + sizing.decoder_actors
        # Lost batches stay unfinished, and must not keep the others from being fed.
        limit = (BATCHES_PER_ACTOR * actors + MAX_LOST_BATCHES) * sizing.rows_per_batch
        while not backlog.over():
            broken: EngineDeadError | None = None
            alone, supply = backlog.suspects > 0, Supply(backlog.batches(), limit)
            try:
                yield from self._pass(backlog, supply, sizing, alone)
            except EngineDeadError as error:
                broken = error
            given_up = backlog.settle(
                supply.unfinished, self._died_with, worked=self._worked, broken=broken is not None
            )
            if self._worked or given_up:
                idle = 0
            elif broken or alone:
                idle += 1
            if idle >= MAX_IDLE_PASSES:
                raise broken or EngineDeadError("the workers die with whatever they are given")
            yield from self._give_up(given_up)
            if broken:
                self.say(f"the pipeline broke ({broken}); starting it again")
            if backlog.suspects:
                self.say(f"{backlog.suspects} images were lost with their workers; making them one by one")
        if backlog.error is not None:
            raise backlog.error

    def state(self) -> FeedState:
        """The pipeline as it is now, or as it was when it could last be asked."""
        import ray

        feed = self._feed
        if feed is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                self.last_state = ray.get(feed.state.remote(), timeout=5)
        return self.last_state

    def _pass(self, backlog: Backlog, supply: Supply, sizing: Sizing, alone: bool) -> Iterator[FinishedImage]:
        """One Ray Data pipeline, until the supply ends or it breaks."""
        import ray

        self._worked, self._died_with = False, frozenset()
        with _data_context(), _as_dead_engine():
            feed = self._feed = start_feed()
            dataset = build_dataset(feed, self.config, sizing, alone=alone)
            try:
                with supply.to(feed), contextlib.closing(_rows(dataset)) as rows:
                    for number, data in rows:
                        self._worked |= bool(data)
                        for finished in finished_images(data):
                            request = self.outstanding.pop(finished.index, None)
                            if request is None:
                                continue
                            if not finished.error:
                                backlog.made(request)
                            yield finished
                        feed.drop.remote(number)
                        supply.finished(number)
                if supply.error is not None:
                    raise supply.error
                ray.get(feed.state.remote())  # a feed that died looks like a few lost batches
            finally:
                self.state()
                with contextlib.suppress(ray.exceptions.RayError):
                    self._died_with = frozenset(ray.get(feed.died_with.remote(), timeout=30))
                self._feed = None
                ray.kill(feed)

    def _give_up(self, requests: Iterable[ImageRequest]) -> Iterator[FinishedImage]:
        error = f"lost: its worker died {MAX_RETRIES + 1} times with it alone"
        error += f"; see {self.logs}" if self.logs else ""
        for request in requests:
            del self.outstanding[request.index]
            yield FinishedImage(request.index, b"", error, 0.0)


def build_dataset(feed: Any, config: ActorConfig, sizing: Sizing, *, alone: bool = False) -> Dataset:
    """The lazy Ray Data pipeline: feed -> TokenActor pool -> DecoderActor pool. A row is a batch.

    alone: an actor has one batch and no next one, which would be lost with it.
    """
    import ray.data

    # Ray allows an actor as many OpenMP threads as it reserves whole CPUs, but one at least. torch's setting
    # would not do: it rules one thread, and an actor's calls come on another than its construction.
    environment = {"env_vars": {"OMP_NUM_THREADS": str(sizing.threads)}} if sizing.threads else None
    pools = ((TokenActor, sizing.token_actors), (DecoderActor, sizing.decoder_actors))
    with warnings.catch_warnings():  # some of these arguments are deprecated without a successor in 2.60
        warnings.simplefilter("ignore")
        dataset = feed_dataset(feed)
        for actor, size in pools:
            dataset = dataset.map_batches(
                actor,
                fn_constructor_args=(config, feed),
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(
                    size=size, max_tasks_in_flight_per_actor=1 if alone else None
                ),
                num_cpus=sizing.cpus_per_actor,
                num_gpus=sizing.gpus_per_actor or None,
                runtime_env=environment,
                max_task_retries=MAX_RETRIES,
            )
    return dataset


def _rows(dataset: Dataset) -> Iterator[tuple[int, bytes]]:
    for rows in dataset.iter_batches(batch_size=None, prefetch_batches=0):
        for number, data in zip(rows["number"], rows["batch"], strict=True):
            yield int(number), bytes(data)
        forget_block_figures(dataset)


@contextlib.contextmanager
def _data_context() -> Iterator[None]:
    """Ray Data's settings for a job: quiet, a lost batch costs its rows alone, a row leaves a stage at once."""
    import logging

    import ray.data

    context = ray.data.DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "max_errored_blocks": MAX_LOST_BATCHES,
        "target_max_block_size": 1,
    }
    before = {name: getattr(context, name) for name in wanted}
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


@contextlib.contextmanager
def _as_dead_engine() -> Iterator[None]:
    """What breaks inside Ray, as `EngineDeadError`; a user's mistake that an actor found stays one."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        raise _told_locally(error) from error


def _told_locally(error: BaseException) -> Exception:
    """The error that a worker raised, from the last line of its traceback: a user's mistake stays one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name, _, message = lines[-1].partition(": ") if lines else (type(error).__name__, "", "")
    kind = getattr(errors, name.removeprefix("v2flow_engine.errors."), None)
    if isinstance(kind, type) and issubclass(kind, errors.V2FlowError):
        return kind(message)
    return EngineDeadError(lines[-1] if lines else describe_error(error))
