"""What `v2flow serve` says on Ray when it gives up: from what Serve tells of a model of wrong shapes."""

from __future__ import annotations

import pytest

from v2flow_engine.errors import RequestError
from v2flow_engine.serving.cluster import MAX_TOLD, check_one_folder, reason

TOLD = """The deployment failed to start 2 times in a row. This may be due to a problem with its constructor or \
initial health check failing. See controller logs for details. Error:
ray::ServeReplica:v2flow:TokenGenerator.initialize_and_get_metadata() (pid=6691, ip=192.0.2.2)
  File "v2flow_engine/engine_worker.py", line 246, in _live
RuntimeError: start (0) + length (256) exceeds dimension size (128).

The above exception was the direct cause of the following exception:

  File "v2flow_engine/serving/deployments.py", line 222, in _wait_for
    worker.call(lambda engine: None).result()
v2flow_engine.errors.EngineDeadError: the token engine did not start: RuntimeError: start (0) + length (256) exceeds \
dimension size (128).
"""


def test_the_reason_is_the_engines_own() -> None:
    assert reason(TOLD) == (
        "the token engine did not start: RuntimeError: start (0) + length (256) exceeds dimension size (128)."
    )


def test_another_reason_is_its_end_in_one_line() -> None:
    assert reason("The deployment failed.\n  The actor died:\n killed\n") == (
        "The deployment failed. The actor died: killed"
    )
    assert len(reason("x " * 10_000)) <= MAX_TOLD
    assert reason("") == "Ray Serve gave up"


def test_ingresses_on_several_machines_need_one_folder() -> None:
    check_one_folder(ingresses=2, machines=1)
    check_one_folder(ingresses=1, machines=2)
    with pytest.raises(RequestError, match="2 ingress replicas on 3 machines need --image-dir"):
        check_one_folder(ingresses=2, machines=3)
