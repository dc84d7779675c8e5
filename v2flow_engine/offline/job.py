"""Requests -> finished images through Ray Data: request rows, token actors, decoder actors, an iterator here.

Back pressure, the pools and retries are Ray's. Every request comes out once: as a picture or with an error.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine import errors
from v2flow_engine.errors import EngineDeadError
from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.offline.actors import ActorConfig, DecoderActor, TokenActor
from v2flow_engine.offline.sizing import Sizing, plan
from v2flow_engine.offline.stages import FinishedImage

if TYPE_CHECKING:
    from ray.data import Dataset

# A batch whose worker dies is given to a new one this many times. Ray's default is for ever, so that a batch
# that needs more memory than there is would never end.
MAX_RETRIES = 3
# More than these, and it is not the batches' fault.
MAX_LOST_BATCHES = 3


@dataclass(frozen=True)
class Job:
    """What to make. token_actors, decoder_actors: None leaves the choice to `sizing.plan`."""

    model_dir: Path
    requests: Sequence[ImageRequest]
    image_format: str
    parameters: dict[str, Any]
    token_actors: int | None = None
    decoder_actors: int | None = None

    def sizing(self) -> Sizing:
        """Pools and batches for this job on the cluster that Ray is connected to."""
        import ray

        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        node_cpus = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        wishes = self.token_actors, self.decoder_actors
        return plan(len(self.requests), cpus, gpus, *wishes, node_cpus=node_cpus)


def run_on_ray(job: Job, sizing: Sizing, logs: str = "") -> Iterator[FinishedImage]:
    """Yield every picture as it is finished, in no particular order, then what was lost with its workers.

    Needs a running Ray cluster, whose logs are in the folder `logs`. Raises `EngineDeadError` if the actors
    cannot start, or if more than `MAX_LOST_BATCHES` batches were lost.
    """
    missing = {request.index for request in job.requests}
    with _data_context(), contextlib.closing(_batches(job, sizing)) as batches:
        for batch in batches:
            for row in range(len(batch["index"])):
                finished = FinishedImage(
                    index=int(batch["index"][row]),
                    image=bytes(batch["image"][row]),
                    error=str(batch["error"][row]),
                    seconds=float(batch["seconds"][row]),
                )
                missing.discard(finished.index)
                yield finished
    error = f"lost: its worker died {MAX_RETRIES + 1} times" + (f"; see {logs}" if logs else "")
    for index in sorted(missing):
        yield FinishedImage(index, b"", error, 0.0)


def _batches(job: Job, sizing: Sizing) -> Iterator[dict[str, Any]]:
    import ray.exceptions

    try:
        yield from build_dataset(job, sizing).iter_batches(batch_size=None, prefetch_batches=0)
    except ray.exceptions.RayError as error:
        raise _told_locally(error) from error


def build_dataset(job: Job, sizing: Sizing) -> Dataset:
    """The lazy Ray Data pipeline: request rows -> TokenActor pool -> DecoderActor pool."""
    import ray.data

    config = ActorConfig(
        model_dir=str(Path(job.model_dir).absolute()),
        device="cuda" if sizing.gpus_per_actor else "cpu",
        image_format=job.image_format,
        parameters=job.parameters,
        guided=any(request.parameters.guidance_scale != 1.0 for request in job.requests),
        kv_cache_gib=None,
    )
    # Ray allows an actor as many OpenMP threads as it reserves whole CPUs, but one at least. torch's setting
    # would not do: it rules one thread, and an actor's calls come on another than its construction.
    environment = {"env_vars": {"OMP_NUM_THREADS": str(sizing.threads)}} if sizing.threads else None
    rows = [request.to_row() for request in job.requests]
    blocks = -(-len(rows) // sizing.rows_per_batch)
    dataset = ray.data.from_items(rows, override_num_blocks=blocks)
    for actor, size in ((TokenActor, sizing.token_actors), (DecoderActor, sizing.decoder_actors)):
        with warnings.catch_warnings():  # naming max_task_retries is deprecated without a successor in 2.60
            warnings.simplefilter("ignore")
            dataset = dataset.map_batches(
                actor,
                fn_constructor_args=(config,),
                batch_size=sizing.rows_per_batch,
                compute=ray.data.ActorPoolStrategy(size=size),
                num_cpus=sizing.cpus_per_actor,
                num_gpus=sizing.gpus_per_actor or None,
                runtime_env=environment,
                max_task_retries=MAX_RETRIES,
            )
    return dataset


@contextlib.contextmanager
def _data_context() -> Iterator[None]:
    """Ray Data's settings for a job: quiet, and a lost batch costs its rows alone."""
    import logging

    import ray.data

    context = ray.data.DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "max_errored_blocks": MAX_LOST_BATCHES,
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


def _told_locally(error: BaseException) -> Exception:
    """The error that a worker raised, from the last line of its traceback: a user's mistake stays one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name, _, message = lines[-1].partition(": ") if lines else (type(error).__name__, "", "")
    kind = getattr(errors, name.removeprefix("v2flow_engine.errors."), None)
    if isinstance(kind, type) and issubclass(kind, errors.V2FlowError):
        return kind(message)
    return EngineDeadError(lines[-1] if lines else name)
