"""A Ray cluster for the length of a `with` block: one that runs, the one that RAY_ADDRESS names, or a small
local one.

Also keeps the native parts of Ray from writing over the progress bar. Knows nothing of the job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from v2flow_engine.errors import EngineDeadError, V2FlowError
from v2flow_engine.offline.sizing import Cluster
from v2flow_engine.offline.stages import describe_error

OBJECT_STORE_BYTES = 256 * 2**20
_SHOWN_BYTES = 4000
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Leave CUDA_VISIBLE_DEVICES alone for actors that reserve no GPU; without it Ray announces a change of
    # its default.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextlib.contextmanager
def ray_cluster(address: str | None = None) -> Iterator[str]:
    """Connect to Ray or start it, quietly; what was started here is shut down at the end.

    Yields the folder of Ray's logs, or "" for a cluster that ran before. Raises `EngineDeadError` if there is
    none to be had.

    Args:
        address: of a cluster; None takes the one that RAY_ADDRESS names, and without it starts one.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ""
        return
    session_dir = _start(address or os.environ.get("RAY_ADDRESS"))
    try:
        yield str(Path(session_dir) / "logs")
    finally:
        ray.shutdown()


def cluster_resources() -> Cluster:
    """Of the cluster that Ray is connected to."""
    import ray

    resources = ray.cluster_resources()
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return Cluster(
        cpus=max(1, int(resources.get("CPU", 1))),
        gpus=int(resources.get("GPU", 0)),
        nodes=max(1, sum(count > 0 for count in cpus)),
        node_cpus=max(cpus, default=1),
    )


def _start(address: str | None, attempts: int = 2) -> str:
    """Connect to the cluster at an address, or start one here; returns Ray's session folder."""
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    local = {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        return str(
            ray.init(**quiet, **({"address": address} if address else local)).address_info["session_dir"]
        )
    except Exception as error:  # Ray raises bare Exception among others
        ray.shutdown()
        # Ray's own agents have 15 s to start, which can't be set; a busy machine may make it the second time.
        if attempts > 1 and not address:
            return _start(address, attempts - 1)
        where = f"connect to the cluster at {address}" if address else "start"
        raise EngineDeadError(f"Ray did not {where}: {describe_error(error)}") from error


@contextlib.contextmanager
def quiet_output() -> Iterator[TextIO]:
    """Yield the real stderr as a stream while stdout and file descriptor 2 go to a temporary file.

    Ray prints an alarming line about every actor that may be restarted straight to the descriptor, and every
    death of a worker, also of one that it replaces, to stdout. If the block fails by no mistake of the
    user's, the end of what was held back is shown.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+", errors="replace") as held, contextlib.ExitStack() as stack:
        real = stack.enter_context(os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace"))
        stream = sys.stderr if _is_redirected(sys.stderr) else real
        os.dup2(held.fileno(), 2)
        try:
            with (
                contextlib.redirect_stdout(held),
                contextlib.redirect_stderr(stream),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield stream
        except V2FlowError:
            raise
        except Exception:
            held.flush()
            held.seek(max(0, held.seek(0, os.SEEK_END) - _SHOWN_BYTES))
            real.write(held.read())
            raise
        finally:
            os.dup2(real.fileno(), 2)


def _is_redirected(stream: TextIO) -> bool:
    """Whether Python's stderr already goes elsewhere than to descriptor 2, as under a test runner."""
    try:
        return stream.fileno() != 2
    except (OSError, ValueError):
        return True
