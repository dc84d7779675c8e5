"""A checked job -> pictures in its folder: where they are made, what is shown meanwhile, what is said at the end."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TextIO

from v2flow_engine.errors import DataError, EngineDeadError, OutputError, RequestError
from v2flow_engine.files import told_as_output_error
from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.offline.batches import unfinished
from v2flow_engine.offline.interrupts import Interrupts
from v2flow_engine.offline.live import LiveTable
from v2flow_engine.offline.metrics import Metrics, earlier_runs
from v2flow_engine.offline.planning import BadRow, Picture
from v2flow_engine.offline.prepare import GenerateJob
from v2flow_engine.offline.sink import ERRORS, Sink
from v2flow_engine.offline.stages import FinishedImage

if TYPE_CHECKING:
    from v2flow_engine.offline.job import RayRun
    from v2flow_engine.offline.sizing import Cluster, Sizing

Batches = Iterator[list[ImageRequest]]


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
        return self.batch_invariant or (self.address, self.token_actors, self.decoder_actors) != (None,) * 3


class TooManyErrors(Exception):
    """The job is hopeless: more rows failed than --max-errors."""


class JobRun:
    """One run of a job. `make`, then, when the sink is closed, `finish`."""

    def __init__(
        self,
        job: GenerateJob,
        sink: Sink,
        wishes: RayWishes,
        max_errors: int | None,
        stderr: TextIO,
        interrupts: Interrupts,
    ) -> None:
        self.job, self.sink, self.wishes, self.max_errors = job, sink, wishes, max_errors
        self.stderr, self.interrupts = stderr, interrupts
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
                    self.interrupts.check()
                    picture = self.pictures.pop(finished.index, None)
                    if picture is None:
                        continue  # was there already, and made again for its batch's sake
                    self.sink.write(picture, finished)
                    if not finished.error:
                        self.metrics.advance(len(finished.image), finished.tokens)
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

    def _batches(self, rows: int) -> Batches:
        """All batches of the job with a picture to do in them, those pictures noted as under way."""
        pictures = self.job.pictures(self.sink.finished, self._fail)
        for batch, wanted in unfinished(pictures, self.sink.finished, rows):
            self.pictures.update({picture.request.index: picture for picture in wanted})
            yield [picture.request for picture in batch]

    def _usable(self, most: int) -> int:
        """How many pictures there are to do, counted up to `most`."""
        finished = self.sink.finished
        pictures = self.job.pictures(finished, lambda bad: None)
        return sum(1 for _ in itertools.islice((p for p in pictures if not finished.holds(p)), most))

    def _fail(self, bad: BadRow) -> None:
        self.sink.fail(bad)
        self._check_errors()

    def _check_errors(self) -> None:
        self.metrics.failed = self.sink.failed_pictures
        if self.max_errors is not None and self.sink.failed_rows > self.max_errors:
            raise TooManyErrors(f"more than --max-errors {self.max_errors} rows failed")

    def _stream(self, table: LiveTable, stack: ExitStack) -> Iterator[FinishedImage]:
        """The finished images, from Ray Data or from this process, and a line that says which and why."""
        wishes, batches = self.wishes, None
        if (rows := self.sink.rows_per_batch) is not None:
            # A job that was on Ray goes on there, with batches of the same size: they round in the same way.
            batches = self._batches(rows)
            if (first := next(batches, None)) is None:
                return iter(())
            batches = itertools.chain([first], batches)
        else:
            usable = self._usable(wishes.ray_from)
            if not usable:
                return iter(list(self._batches(1)))  # none; what cannot be made is noted
            if usable < wishes.ray_from and not wishes.asked:
                table.say(f"{_images(usable)} in this process: Ray Data starts from {wishes.ray_from} on")
                return self._stream_here()
        from v2flow_engine.offline.cluster import ray_cluster

        table.say(f"{_images(self.job.survey.todo)} through Ray Data; starting it")
        try:
            logs = stack.enter_context(ray_cluster(wishes.address))
        except EngineDeadError as error:
            if wishes.asked or os.environ.get("RAY_ADDRESS"):
                raise
            table.say(f"{error}; going on in this process")
            return self._stream_here(batches)
        return self._stream_ray(batches, table, logs)

    def _stream_here(self, batches: Batches | None = None) -> Iterator[FinishedImage]:
        from v2flow_engine.generation.pipeline import DECODER_BATCH
        from v2flow_engine.offline.single_process import run_here

        model, output = self.job.planner.folder.path, self.job.output
        requests = itertools.chain.from_iterable(batches or self._batches(DECODER_BATCH))
        return run_here(model, requests, output.image, self.job.identity, self.job.dtype)

    def _stream_ray(self, batches: Batches | None, table: LiveTable, logs: str) -> Iterator[FinishedImage]:
        from v2flow_engine.offline import sizing
        from v2flow_engine.offline.cluster import check_nodes, cluster_resources

        cluster, todo = cluster_resources(), self.job.survey.todo
        check_nodes()
        if self.wishes.batch_invariant and not cluster.gpus:
            raise RequestError(
                "--batch-invariant: vLLM has such kernels for GPUs alone, and this cluster has none; a run on CPUs "
                "that goes on makes the same batches as before, and so the same pictures"
            )
        wanted = self.wishes.token_actors, self.wishes.decoder_actors
        size = sizing.plan(todo, cluster, *wanted)
        rows = self.sink.rows_per_batch or size.rows_per_batch
        self.sink.keep_rows_per_batch(rows)
        size, batches = replace(size, rows_per_batch=rows), batches or self._batches(rows)
        if sizing.wants_calibration(todo, cluster, *wanted):
            size = yield from self._calibrate(batches, size, table, logs, cluster)
        yield from self._run_on_ray(size, table, logs).images_of(batches, size)

    def _calibrate(
        self, batches: Batches, planned: Sizing, table: LiveTable, logs: str, cluster: Cluster
    ) -> Iterator[FinishedImage]:
        """Make the first pictures with one actor of each kind, and share the cluster by what each of them took."""
        from v2flow_engine.offline import sizing

        todo, rows = self.job.survey.todo, planned.rows_per_batch
        count = max(1, sizing.CALIBRATION_BATCHES * sizing.MAX_BATCH // rows)
        # With as many threads as the others will have: so the pictures are the same, and the times hold.
        single = replace(planned, token_actors=1, decoder_actors=1)
        table.say(f"calibrating on the first {count * rows} images, one actor of each kind")
        run = self._run_on_ray(single, table, logs)
        yield from run.images_of(itertools.islice(batches, count), single)
        state = run.last_state
        seconds = {pool: state.seconds_per_picture(pool) for pool in state.busy}
        size = sizing.calibrated(todo, cluster, seconds["tokens"], seconds["decoder"])
        size = replace(size, rows_per_batch=rows)
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
            dtype=job.dtype,
            gpus=size.gpus_per_actor,
            batch_invariant=self.wishes.batch_invariant,
        )
        run = RayRun(config, table.say, logs)
        self.metrics.pools = {"tokens": size.token_actors, "decoder": size.decoder_actors}
        self.metrics.state = run.state
        return run


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"
