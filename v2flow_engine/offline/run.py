"""A checked job -> pictures in its folder: where they are made, what is shown meanwhile, what is said at the end."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from v2flow_engine.errors import DataError, EngineDeadError, OutputError
from v2flow_engine.files import told_as_output_error
from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.offline.live import LiveTable
from v2flow_engine.offline.metrics import Metrics, earlier_runs
from v2flow_engine.offline.planning import BadRow, Picture
from v2flow_engine.offline.prepare import GenerateJob
from v2flow_engine.offline.sink import ERRORS, Sink
from v2flow_engine.offline.stages import FinishedImage

if TYPE_CHECKING:
    from v2flow_engine.offline.job import RayRun
    from v2flow_engine.offline.sizing import Cluster, Sizing


@dataclass(frozen=True)
class RayWishes:
    """What the user says of Ray. ray_from: pictures from which on it is used unasked."""

    address: str | None
    token_actors: int | None
    decoder_actors: int | None
    batch_invariant: bool
    ray_from: int

    @property
    def asked(self) -> bool:
        """Whether Ray is to be used however few pictures there are."""
        return (self.address, self.token_actors, self.decoder_actors) != (None, None, None)


class TooManyErrors(Exception):
    """The job is hopeless: more rows failed than --max-errors."""


class JobRun:
    """One run of a job. `make`, then, when the sink is closed, `finish`."""

    def __init__(
        self, job: GenerateJob, sink: Sink, wishes: RayWishes, max_errors: int | None, stderr: TextIO
    ) -> None:
        self.job, self.sink, self.wishes, self.max_errors = job, sink, wishes, max_errors
        self.stderr = stderr
        survey = job.survey
        self.metrics = Metrics(
            survey.pictures,
            survey.pictures - survey.todo - survey.bad_pictures,
            earlier=earlier_runs(sink.directory),
        )
        self.pictures: dict[int, Picture] = {}  # those under way, by place
        self.stopped = ""

    def make(self) -> None:
        """Make what is to do, until it is done or something stops it. Raises `OutputError`."""
        with (
            self._saying_what_is_kept(),
            LiveTable(self.metrics, self.stderr, self.sink.directory) as table,
            ExitStack() as stack,
        ):
            try:
                for finished in self._stream(table, stack):
                    self.sink.write(self.pictures.pop(finished.index), finished)
                    if not finished.error:
                        self.metrics.advance(len(finished.image))
                    self._check_errors()
            except KeyboardInterrupt:
                self.stopped = "interrupted"
            except (EngineDeadError, DataError, TooManyErrors) as error:
                self.stopped = f"stopped: {error}"
            finally:
                self.metrics.sample()

    def finish(self) -> int:
        """Write the sheet and metrics.json, say what came of it; returns the exit status."""
        from v2flow_engine.offline.sheet import sheet_of

        sink, metrics = self.sink, self.metrics

        def say(message: str) -> None:
            print(message, file=self.stderr, flush=True)

        if self.stopped:
            say(f"{self.stopped}; {_images(sink.kept)} of {metrics.total} kept, run it again to go on")
        if sink.failed_pictures:
            where = f"all in {sink.directory}/{ERRORS}"
            say(f"{_images(sink.failed_pictures)} failed, the first: {sink.first_error} ({where})")
        if sink.kept:
            with self._saying_what_is_kept(), told_as_output_error(sink.directory):
                # a run that found nothing to do leaves the last one's
                if metrics.made or metrics.failed or self.stopped or not metrics.earlier:
                    metrics.write(sink.directory, self.stopped)
                sheet = sheet_of(sink.directory, sink.kept)
            seconds = metrics.seconds
            rate = f" in {seconds:.1f} s, {metrics.made / seconds:.2f} images/s" if metrics.made else ""
            nothing = "" if metrics.made or self.stopped or sink.failed_pictures else ", none missing"
            say(f"{_images(metrics.made)}{rate}{nothing}; see {sheet}")
        if self.stopped == "interrupted":
            return 130
        return 1 if sink.failed_pictures or self.stopped else 0

    @contextmanager
    def _saying_what_is_kept(self) -> Iterator[None]:
        try:
            yield
        except OutputError as error:
            kept = _images(self.sink.kept)
            raise OutputError(f"{error}; {kept} made so far, run it again to go on") from error

    def _requests(self) -> Iterator[ImageRequest]:
        """Those of the pictures to do, each noted as under way."""
        for picture in self.job.todo(self.sink.finished, self._fail):
            self.pictures[picture.request.index] = picture
            yield picture.request

    def _fail(self, bad: BadRow) -> None:
        self.sink.fail(bad)
        self._check_errors()

    def _check_errors(self) -> None:
        self.metrics.failed = self.sink.failed_pictures
        if self.max_errors is not None and self.sink.failed_rows > self.max_errors:
            raise TooManyErrors(f"more than --max-errors {self.max_errors} rows failed")

    def _stream(self, table: LiveTable, stack: ExitStack) -> Iterator[FinishedImage]:
        """The finished images, from Ray Data or from this process, and a line that says which and why."""
        requests = self._requests()
        first = list(itertools.islice(requests, self.wishes.ray_from))
        if not first:
            return iter(())
        todo = self.job.survey.todo
        requests = itertools.chain(first, requests)
        if len(first) < self.wishes.ray_from and not self.wishes.asked:
            table.say(
                f"{_images(len(first))} in this process: Ray Data starts from {self.wishes.ray_from} on"
            )
            return self._stream_here(requests)
        from v2flow_engine.offline.cluster import ray_cluster

        table.say(f"{_images(todo)} through Ray Data; starting it")
        try:
            logs = stack.enter_context(ray_cluster(self.wishes.address))
        except EngineDeadError as error:
            if self.wishes.asked or os.environ.get("RAY_ADDRESS"):
                raise
            table.say(f"{error}; going on in this process")
            return self._stream_here(requests)
        return self._stream_ray(requests, table, logs)

    def _stream_here(self, requests: Iterator[ImageRequest]) -> Iterator[FinishedImage]:
        from v2flow_engine.offline.single_process import run_here

        model, output = self.job.planner.folder.path, self.job.output
        return run_here(model, requests, output.image, self.job.identity)

    def _stream_ray(
        self, requests: Iterator[ImageRequest], table: LiveTable, logs: str
    ) -> Iterator[FinishedImage]:
        from v2flow_engine.offline import sizing
        from v2flow_engine.offline.cluster import cluster_resources

        cluster, todo = cluster_resources(), self.job.survey.todo
        wanted = self.wishes.token_actors, self.wishes.decoder_actors
        size = sizing.plan(todo, cluster, *wanted)
        if sizing.wants_calibration(todo, cluster, *wanted):
            size = yield from self._calibrate(requests, table, logs, cluster)
        yield from self._run_on_ray(size, table, logs).images(requests, size)

    def _calibrate(
        self, requests: Iterator[ImageRequest], table: LiveTable, logs: str, cluster: Cluster
    ) -> Iterator[FinishedImage]:
        """Make the first pictures with one actor of each kind, and share the cluster by what each of them took."""
        from v2flow_engine.offline import sizing

        todo = self.job.survey.todo
        count = sizing.CALIBRATION_BATCHES * sizing.MAX_BATCH
        single = sizing.plan(todo, cluster, 1, 1)
        table.say(f"calibrating on the first {count} images, one actor of each kind")
        run = self._run_on_ray(single, table, logs)
        yield from run.images(itertools.islice(requests, count), single)
        state = run.last_state
        seconds = {pool: state.seconds_per_picture(pool) for pool in state.busy}
        size = sizing.calibrated(todo, cluster, seconds["tokens"], seconds["decoder"])
        note = (
            f"measured {1000 * seconds['tokens']:.1f} ms of a token actor and {1000 * seconds['decoder']:.1f} ms of a "
            f"decoder actor for an image: {size.token_actors} token actors, {size.decoder_actors} decoder actors"
        )
        self.metrics.notes.append(note)
        table.say(note)
        return size

    def _run_on_ray(self, size: Sizing, table: LiveTable, logs: str) -> RayRun:
        from v2flow_engine.offline.actors import ActorConfig
        from v2flow_engine.offline.job import RayRun

        table.say(
            f"token actors {size.token_actors}, decoder actors {size.decoder_actors}, batches of up to "
            f"{size.rows_per_batch}; loading the model"
        )
        job = self.job
        config = ActorConfig(
            model=job.model,
            device="cuda" if size.gpus_per_actor else "cpu",
            image_format=job.output.image,
            identity=job.identity,
            guided=job.survey.guided,
            gpus=size.gpus_per_actor,
            batch_invariant=self.wishes.batch_invariant,
        )
        run = RayRun(config, table.say, logs)
        self.metrics.pools = {"tokens": size.token_actors, "decoder": size.decoder_actors}
        self.metrics.state = run.state
        return run


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"
