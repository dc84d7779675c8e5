"""Who shares a batch: a matter of the input's order alone, also after a kill."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.offline.pictures import SETTINGS, picture
from v2flow_engine.offline.batches import unfinished
from v2flow_engine.offline.identity import KeyMap
from v2flow_engine.offline.planning import Picture
from v2flow_engine.offline.resume import Finished


def finished(pictures: list[Picture]) -> Finished:
    """As `read_finished` tells it."""
    keys = np.array([p.key for p in pictures], dtype=np.uint64)
    return Finished(KeyMap(keys, np.array([p.fingerprint for p in pictures], dtype=np.uint64)), False)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40), st.integers(1, 7))
def test_a_job_that_goes_on_makes_the_same_batches(
    rows: list[tuple[bool, bool]], rows_per_batch: int
) -> None:
    small = dataclasses.replace(SETTINGS, size="32x32")
    pictures = [picture(i, settings=small if is_small else SETTINGS) for i, (is_small, _) in enumerate(rows)]
    there = finished([p for p, (_, is_there) in zip(pictures, rows, strict=True) if is_there])
    whole = [batch for batch, _ in unfinished(pictures, finished([]), rows_per_batch)]
    assert sorted(p.id for batch in whole for p in batch) == list(range(len(rows)))
    again = list(unfinished(pictures, there, rows_per_batch))
    assert all(batch in whole for batch, _ in again)
    missing = [p.id for _, wanted in again for p in wanted]
    assert sorted(missing) == [i for i, (_, is_there) in enumerate(rows) if not is_there]


def test_vllm_has_batch_invariant_kernels_and_reads_the_setting() -> None:
    program = (
        "from v2flow_engine.generation.batch_invariance import use_batch_invariant_kernels as use; use()\n"
    )
    program += "import vllm.envs; assert vllm.envs.VLLM_BATCH_INVARIANT is True"
    subprocess.run([sys.executable, "-c", program], check=True)
    vllm = find_spec("vllm")  # found, and not imported
    assert vllm is not None
    worker = Path(str(vllm.origin)).parent / "v1" / "worker" / "gpu_worker.py"
    assert "init_batch_invariance()" in worker.read_text(encoding="utf-8")
