"""Several machines, as far as one can be several: a Ray cluster of a head and two nodes, and what dies on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from benchmarks.processes import started_by
from benchmarks.stress_checks import faults, picture_bytes

pytestmark = pytest.mark.skipif(
    "V2FLOW_TEST_CLUSTER" not in os.environ,
    reason="takes two minutes on an idle machine: V2FLOW_TEST_CLUSTER=1 runs it",
)
PICTURES = 130  # batches of 64, 64 and 2
# Of each node, so that an actor has as many threads as on the machine that makes `undisturbed`.
CPUS = os.cpu_count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, which is the driver's, and two nodes. It has its own folder and no fixed port."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as session:
        head: dict[str, Any] = {"num_cpus": 0, "temp_dir": session, "include_dashboard": False}
        head["_system_config"] = {"health_check_period_ms": 500}  # a lost node is noticed in seconds
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=CPUS)
            yield cluster
        finally:
            cluster.shutdown()


def generate(cluster: Cluster, model: Path, out: Path) -> subprocess.Popen[str]:
    """`v2flow generate` on the cluster, as a process of its own.

    Away from the checkout: Ray's workers take the driver's folder into their path, before what their node has.
    """
    command = [
        sys.executable,
        "-m",
        "v2flow_engine.cli",
        "generate",
        "--model",
        str(model),
        "--out",
        str(out),
    ]
    command += ["--prompt", "a cat", "--n", str(PICTURES), "--ray-address", cluster.address]
    command += ["--token-actors", "1", "--decoder-actors", "1"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=out.parent)


def wait_for(happened: Callable[[], Any], driver: subprocess.Popen[str], seconds: float = 240) -> Any:
    """What `happened` returns as soon as it is true, while the driver lives."""
    deadline = time.monotonic() + seconds
    while not (value := happened()):
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def nodes_of(cluster: Cluster, kind: str) -> list[Any]:
    """The nodes, the head aside, that run an actor of a kind."""
    found = []
    for node in cluster.worker_nodes:
        if started_by(node.all_processes["raylet"][0].process.pid, kind):
            found.append(node)
    return found


@pytest.mark.slow
def test_a_killed_driver_and_then_a_killed_node_change_no_picture(
    cluster: Cluster, model_dir: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    driver = generate(cluster, model_dir, out)
    try:
        wait_for(lambda: list(out.glob("*.png")), driver)
        token_nodes, decoder_nodes = nodes_of(cluster, "TokenActor"), nodes_of(cluster, "DecoderActor")
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    assert token_nodes
    assert token_nodes != decoder_nodes  # spread over the nodes
    kept = len(list(out.glob("*.png")))
    deadline = time.monotonic() + 60
    while nodes_of(cluster, "MapWorker"):  # Ray ends what a dead driver has started
        assert time.monotonic() < deadline
        time.sleep(0.1)

    driver = generate(cluster, model_dir, out)
    try:
        (node, *_) = wait_for(lambda: nodes_of(cluster, "DecoderActor"), driver)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=CPUS)
        _, said = driver.communicate(timeout=300)
    finally:
        driver.kill()
    assert driver.returncode == 0, said
    assert 0 < kept < PICTURES
    wanted = picture_bytes(undisturbed)
    assert faults(out, set(wanted)) == []
    assert picture_bytes(out) == wanted


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('__version__ = "0.0.1"', "has v2flow_engine 0.0.1, expected"),
        ("raise ImportError('no such package')", "has no v2flow_engine (ImportError: no such package)"),
    ],
    ids=["another version", "none"],
)
def test_a_node_without_the_package_is_named(
    content: str, said: str, cluster: Cluster, model_dir: Path, tmp_path: Path
) -> None:
    package = tmp_path / "path" / "v2flow_engine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(content)
    node = cluster.add_node(num_cpus=CPUS, env_vars={"PYTHONPATH": str(package.parent)})
    try:
        driver = generate(cluster, model_dir, tmp_path / "out")
        _, told = driver.communicate(timeout=120)
    finally:
        cluster.remove_node(node, allow_graceful=False)
    assert driver.returncode == 2, told
    (line,) = [line for line in told.splitlines() if line.startswith("v2flow: error: ")]
    assert f"node {node.node_ip_address} (" in line
    assert said in line
    assert not (tmp_path / "out").exists()
