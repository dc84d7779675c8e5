"""How many compiled kernels oneDNN keeps in a process that serves.

It keeps one of each layer for every shape that it has met, and under load nearly every batch has a new shape.
"""

from __future__ import annotations

import os

VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
KEPT = 64  # of 1024, oneDNN's own number; the least recently used go first


def bound_kernel_cache() -> None:
    """Have each oneDNN of this process, torch's and vLLM's, keep fewer kernels, unless the user has said how many.

    Takes effect where nothing has been computed by oneDNN before.
    """
    os.environ.setdefault(VARIABLE, str(KEPT))
