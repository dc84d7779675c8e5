"""The cores of a machine -> torch's threads in each stage, where the stages compute on them at the same time.

Pools of threads that together are more than the cores take them from each other between any two small operations.
"""

from __future__ import annotations

import os

from v2flow_engine.cores import usable_cores

VARIABLE = "OMP_NUM_THREADS"
STAGES = 2


def threads_of_a_replica(cores: int, replicas: int) -> int:
    """What `OMP_NUM_THREADS` says, or an equal share of a machine's cores, one at least."""
    return threads_of_the_user() or max(1, cores // replicas)


def threads_of_the_user() -> int:
    """What `OMP_NUM_THREADS` says; 0 if it is not set, or is a list."""
    told = os.environ.get(VARIABLE, "").strip()
    return int(told) if told.isdecimal() else 0


def share_cores() -> None:
    """Give each of the two engines that this process is about to start half of the cores that it may use.

    Does nothing where the user has decided by `OMP_NUM_THREADS`, or a GPU does the work. Threads that begin later take
    the number over.
    """
    import torch

    if not os.environ.get(VARIABLE) and not torch.cuda.is_available():
        torch.set_num_threads(max(1, usable_cores() // STAGES))
