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
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from v2flow_engine.errors import EngineDeadError, ReleaseError, V2FlowError
from v2flow_engine.offline.sizing import Cluster
from v2flow_engine.offline.stages import describe_error

OBJECT_STORE_BYTES = 256 * 2**20
_SHOWN_BYTES = 4000
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Leave CUDA_VISIBLE_DEVICES alone for actors that reserve no GPU; without it Ray announces a change of
    # its default.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # What Ray remembers of finished tasks, for its own tools: its default, 100,000, grows to 330 MB in a long job.
    "RAY_task_events_max_num_task_in_gcs": "10000",
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


def check_nodes(patience: float = 120.0) -> None:
    """Raise `ReleaseError` naming a node on which actors may run and that has not this engine, vLLM and its plugin.

    Each node is asked by a task of its own; none if there is only the driver's. patience: seconds for all answers;
    raises `EngineDeadError` after them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from v2flow_engine import __version__

    nodes = nodes_for_actors(ray.nodes())
    if set(nodes) <= {ray.get_runtime_context().get_node_id()}:
        return
    ask = ray.remote(num_cpus=0, max_retries=1)(_question())
    answers = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(): name
        for node, name in nodes.items()
    }
    _, late = ray.wait(list(answers), num_returns=len(answers), timeout=patience)
    if late:
        raise EngineDeadError(f"node {answers[late[0]]} did not start a task in {patience:.0f} s")
    for answer, name in answers.items():
        try:
            version, missing = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise EngineDeadError(f"node {name}: {describe_error(error)}") from error
        if version != __version__:
            has = f"v2flow_engine {version}" if version else f"no v2flow_engine ({missing})"
            raise ReleaseError(f"node {name} has {has}, expected {__version__} as on this machine")
        if missing:
            raise ReleaseError(
                f"node {name} lacks {missing}; install v2flow_engine[cuda] or [cpu] there, too"
            )


def nodes_for_actors(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Id -> address and name of those that are alive and announce a CPU or a GPU, from what `ray.nodes` says."""
    return {
        node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
        for node in nodes
        if node["Alive"] and (node["Resources"].get("CPU") or node["Resources"].get("GPU"))
    }


def _question() -> Callable[[], tuple[str, str]]:
    """A function that names nothing of this package, which the node that is asked may lack."""

    def versions() -> tuple[str, str]:
        from importlib import metadata, util

        try:
            import v2flow_engine
        except Exception as error:
            return "", f"{type(error).__name__}: {error}"
        plugin = metadata.entry_points(group="vllm.general_plugins", name="v2flow")
        needed = {
            "vLLM": util.find_spec("vllm"),
            "the vLLM plugin v2flow": plugin and util.find_spec("v2flow_vllm"),
        }
        missing = [name for name, found in needed.items() if not found]
        return getattr(v2flow_engine, "__version__", "of an unknown version"), " and ".join(missing)

    return versions


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
