"""What Ray Data keeps of finished blocks can be dropped while it runs, in the version that is installed."""

from __future__ import annotations

import pytest
import ray.data

from v2flow_engine.offline.block_figures import forget_block_figures

BLOCKS = 12


@pytest.mark.usefixtures("ray_running")
def test_figures_of_blocks_are_dropped() -> None:
    dataset = ray.data.range(BLOCKS, override_num_blocks=BLOCKS).map_batches(
        lambda rows: rows, batch_size=None
    )
    seen = 0
    for rows in dataset.iter_batches(batch_size=None, prefetch_batches=0):
        seen += len(rows["id"])
        if seen == BLOCKS:  # all of them are there
            before = held(dataset)
            forget_block_figures(dataset)
            assert before >= BLOCKS and held(dataset) == 0
    assert seen == BLOCKS
    forget_block_figures(ray.data.range(1))  # one that does not run


def held(dataset: ray.data.Dataset) -> int:
    """Figures in all operators."""
    assert dataset._current_executor is not None
    return sum(len(getattr(each, "_output_blocks_stats", ())) for each in dataset._current_executor._topology)
