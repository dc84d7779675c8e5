"""What every test shares: a small, quiet, offline environment, and no GPU tests without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before vllm, ray or transformers is imported: they read these once. A value from outside wins.
for name, value in {
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 by default: on a busy machine tests would wait for whatever else runs
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: ready in seconds
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}.items():
    os.environ.setdefault(name, value)

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # the processes share the cores; threads would fight for them

TESTS = Path(__file__).parent
GPU_TESTS = TESTS / "gpu"
# Those that take longest come first: begun last, one of them would leave the other process with nothing to do. Between
# two files with Ray are some without, since two clusters at once want more cores than there are.
LONG_FILES = (
    "offline/test_job.py",
    "training/test_ranks.py",
    "plugins/test_server.py",
    "benchmarks/test_bench_tokens.py",
    "serving/test_ray_serve.py",
    "converting/test_extend.py",
    "training/test_features.py",
    "offline/test_streaming.py",
    "offline/test_command.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, and leave out what needs a GPU where there is none."""
    order = {TESTS / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path, len(order)))
    _mark_gpu_tests(items)


def _mark_gpu_tests(items: list[pytest.Item]) -> None:
    """Mark what is under tests/gpu, and skip it where torch sees no CUDA device."""
    gpu_items = [item for item in items if GPU_TESTS in item.path.parents or item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    for item in gpu_items:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _repeatable_hypothesis() -> None:
    """The same examples on every machine, and no failure because a shared core was slow."""
    from hypothesis import settings

    settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
    settings.load_profile("repeatable")
