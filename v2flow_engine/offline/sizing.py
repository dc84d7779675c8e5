"""A cluster and a number of pictures -> how many actors, what each reserves, and how large batches are.

Arithmetic only; knows nothing of Ray beyond its idea of resources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_BATCH = 64
CPUS_PER_ACTOR = 8  # on a CPU; fewer where a machine has fewer
CALIBRATION_BATCHES = 4
MIN_CALIBRATED_BATCHES = 40  # a shorter job would spend more on loading the model again than it gains


@dataclass(frozen=True)
class Cluster:
    """Resources of all machines together. nodes: machines. node_cpus: of the largest one."""

    cpus: int
    gpus: int = 0
    nodes: int = 1
    node_cpus: int = 0

    @property
    def places(self) -> int:
        """Actors that the cluster can keep busy: two on a single GPU, one on each of several; on CPUs, two a machine
        and more on large ones."""
        if self.gpus:
            return max(2, self.gpus)
        return max(2, self.nodes * max(2, (self.node_cpus or self.cpus) // CPUS_PER_ACTOR))


@dataclass(frozen=True)
class Sizing:
    """Actors of each pool, what one of them reserves, and the rows that it gets at once.

    threads: torch's in each actor on a CPU; 0 where a GPU does the work.
    """

    token_actors: int
    decoder_actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    rows_per_batch: int
    threads: int


def plan(
    rows: int, cluster: Cluster, token_actors: int | None = None, decoder_actors: int | None = None
) -> Sizing:
    """Size the two pools.

    Args:
        rows: pictures to make.
        token_actors, decoder_actors: the user's wishes; None for half of the cluster's places each.

    No pool is larger than the number of its batches. An actor's threads do not follow from `rows`, for a picture's last
    bits may depend on them, and a job that goes on has fewer rows.
    """
    places = cluster.places
    token_actors = token_actors or max(1, places // 2)
    decoder_actors = decoder_actors or max(1, places - places // 2)
    pools = max(token_actors, decoder_actors)
    on_largest = math.ceil((token_actors + decoder_actors) / cluster.nodes)
    # Two batches per actor and stage at least, so that the decoder starts while the LLM goes on; large ones
    # pay.
    rows_per_batch = max(1, min(MAX_BATCH, max(4, math.ceil(rows / (2 * pools)))))
    batches = math.ceil(rows / rows_per_batch)
    token_actors, decoder_actors = min(token_actors, batches), min(decoder_actors, batches)
    actors = token_actors + decoder_actors
    return Sizing(
        token_actors=token_actors,
        decoder_actors=decoder_actors,
        # A whole CPU, less where there are more actors than CPUs. Never so much that the others find no place when a
        # machine is lost.
        cpus_per_actor=min(1.0, math.floor(100 * cluster.cpus / (actors * min(2, cluster.nodes))) / 100),
        # 1/2, 1/3, ... so that actors fill whole GPUs: what is left over of one GPU cannot be joined with
        # another's.
        gpus_per_actor=1 / math.ceil(actors / cluster.gpus) if cluster.gpus else 0.0,
        rows_per_batch=rows_per_batch,
        threads=0
        if cluster.gpus
        else max(1, (cluster.node_cpus or cluster.cpus) // max(1, math.ceil(on_largest / 2))),
    )


def wants_calibration(
    rows: int, cluster: Cluster, token_actors: int | None = None, decoder_actors: int | None = None
) -> bool:
    """Whether there is a ratio to choose, and a job long enough to measure it first."""
    if token_actors is not None or decoder_actors is not None:
        return False
    return cluster.places > 2 and rows >= MIN_CALIBRATED_BATCHES * MAX_BATCH


def calibrated(rows: int, cluster: Cluster, token_seconds: float, decoder_seconds: float) -> Sizing:
    """Share the cluster's places so that both pools take equally long.

    Args:
        token_seconds, decoder_seconds: of one actor for one picture, as measured with one actor of each kind.
    """
    places = cluster.places
    share = token_seconds / max(token_seconds + decoder_seconds, 1e-9)
    token_actors = min(places - 1, max(1, round(places * share)))
    return plan(rows, cluster, token_actors, places - token_actors)
