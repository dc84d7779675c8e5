"""A machine and a number of pictures -> how many actors, what each reserves, and how large batches are.

Arithmetic only; knows nothing of Ray beyond its idea of resources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_BATCH = 64


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
    rows: int,
    cpus: int,
    gpus: int,
    token_actors: int | None = None,
    decoder_actors: int | None = None,
    *,
    node_cpus: int | None = None,
) -> Sizing:
    """Size the two pools.

    Args:
        rows: pictures to make.
        cpus, gpus: of the whole cluster.
        token_actors, decoder_actors: the user's wishes.
        node_cpus: of one machine of it; None means that there is one.

    Without wishes: one actor of each kind on CPUs (each uses all cores), one of each on a GPU that they
    share, and half of several GPUs for each stage. No pool is larger than the number of its batches.
    """
    node_cpus = node_cpus or cpus
    token_actors = token_actors or max(1, gpus // 2)
    decoder_actors = decoder_actors or max(1, gpus - gpus // 2)
    pools = max(token_actors, decoder_actors)
    # Two batches per actor and stage at least, so that the decoder starts while the LLM goes on; large ones
    # pay.
    rows_per_batch = max(1, min(MAX_BATCH, max(4, math.ceil(rows / (2 * pools)))))
    batches = math.ceil(rows / rows_per_batch)
    token_actors, decoder_actors = min(token_actors, batches), min(decoder_actors, batches)
    actors = token_actors + decoder_actors
    return Sizing(
        token_actors=token_actors,
        decoder_actors=decoder_actors,
        cpus_per_actor=min(1.0, math.floor(100 * cpus / actors) / 100),
        # 1/2, 1/3, ... so that actors fill whole GPUs: what is left over of one GPU cannot be joined with
        # another's.
        gpus_per_actor=1 / math.ceil(actors / gpus) if gpus else 0.0,
        rows_per_batch=rows_per_batch,
        threads=0 if gpus else max(1, node_cpus // max(token_actors, decoder_actors)),
    )
