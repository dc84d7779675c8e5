"""vLLM's kernels whose results do not depend on the batch: a setting of the process, made before vLLM is imported."""

from __future__ import annotations

import os

from v2flow_engine.errors import ReleaseError

BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"


def use_batch_invariant_kernels() -> None:
    """Switch vLLM to them for the engine that this process starts. Raises `ReleaseError` if it has none.

    vLLM reads the setting when parts of it are imported, so it must not have been before.
    """
    os.environ[BATCH_INVARIANT] = "1"
    from vllm import __version__, envs

    if not getattr(envs, BATCH_INVARIANT, False):
        raise ReleaseError(f"--batch-invariant: vLLM {__version__} does not know {BATCH_INVARIANT}")
