"""Settings -> the same server as three deployments on Ray Serve, until a signal ends it."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from v2flow_engine.errors import RequestError
from v2flow_engine.offline.cluster import cluster_resources, ray_cluster
from v2flow_engine.offline.sizing import plan
from v2flow_engine.serving.cores import threads_of_a_replica
from v2flow_engine.serving.deployments import APP_NAME, build
from v2flow_engine.serving.proxy import CALLBACK, VARIABLE

if TYPE_CHECKING:
    from v2flow_engine.serving.settings import ServerSettings

MANY = 10**6  # pictures: as many as keep all replicas busy
POLL_SECONDS = 0.2
MAX_TOLD = 500  # characters of an error that is none of this project's
ENDINGS = (signal.SIGINT, signal.SIGTERM)


def serve(settings: ServerSettings, host: str, port: int, *, shared_folder: bool) -> int:
    """Returns 0 after a signal, 1 if an engine did not start.

    Raises `EngineDeadError` if Ray does not start, `RequestError` as `check_one_folder` does.

    Args:
        shared_folder: the user named the folder of pictures, so that all machines can be expected to see it.
    """
    ended = threading.Event()
    begun = time.monotonic()
    os.environ.setdefault(VARIABLE, CALLBACK)
    with ray_cluster():
        from ray import serve as ray_serve

        cluster = cluster_resources()
        if not shared_folder:
            check_one_folder(settings.ingress_replicas.most, cluster.nodes)
        sizing = plan(MANY, cluster, settings.token_replicas.most, settings.decoder_replicas.most)
        replicas = math.ceil((sizing.token_actors + sizing.decoder_actors) / cluster.nodes)
        application = build(
            settings,
            cpus=sizing.cpus_per_actor,
            gpus=sizing.gpus_per_actor,
            threads=0 if cluster.gpus else threads_of_a_replica(cluster.node_cpus, replicas),
        )
        try:
            ray_serve.start(http_options={"host": host, "port": port, "keep_alive_timeout_s": 30})
            for ending in ENDINGS:  # only now: Ray sets its own as it starts
                signal.signal(ending, lambda *_: sys.exit(0))
            try:
                ray_serve.run(application, name=APP_NAME, route_prefix="/")
            except RuntimeError as error:
                print(f"v2flow: {reason(_told_by_deployments() or str(error))}", file=sys.stderr, flush=True)
                return 1
            for ending in ENDINGS:
                signal.signal(ending, lambda *_: ended.set())
            print(f"v2flow: ready after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
            ended.wait()
            if drain(settings.drain_seconds):
                ray_serve.delete(APP_NAME)  # the proxy is still there, and passes on the ends of answers
        finally:
            # On somebody else's cluster there may be other applications.
            ray_serve.delete(APP_NAME) if os.environ.get("RAY_ADDRESS") else ray_serve.shutdown()
    return 0


def check_one_folder(ingresses: int, machines: int) -> None:
    """Raise `RequestError` if replicas of the ingress may be on machines that do not see each other's pictures."""
    if ingresses > 1 and machines > 1:
        raise RequestError(
            f"{ingresses} ingress replicas on {machines} machines need --image-dir (and --data-dir, or it is kept in "
            "there): a folder that all machines see, or one would not know the other's pictures, files and batches"
        )


def reason(told: str) -> str:
    """Why Serve gave up, in a line, from what it says of a deployment, with the traceback of a replica in it."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = [line for line in lines if "EngineDeadError: " in line]
    if errors:
        return errors[-1].partition("EngineDeadError: ")[2]
    return " ".join(lines)[-MAX_TOLD:] or "Ray Serve gave up"


def _told_by_deployments() -> str:
    """What Serve says of deployments that it could not start; the application's own message only counts them."""
    from ray import serve as ray_serve

    deployments = ray_serve.status().applications[APP_NAME].deployments
    return "\n".join(each.message for each in deployments.values() if each.status == "DEPLOY_FAILED")


def drain(seconds: float) -> bool:
    """Make the ingress refuse what is new, and wait for what is under way in any of its replicas, so long at most.

    Returns whether all was finished. Serve's own draining is that of one deployment: it would end stages that have
    nothing to do at the moment under requests which are still in the other one.
    """
    from ray import serve as ray_serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    end = time.monotonic() + seconds
    ingress = ray_serve.get_app_handle(APP_NAME)
    died_meanwhile = (RayError, RayServeException, TimeoutError)  # a replica; the others are asked again
    while (left := end - time.monotonic()) > 0:
        with suppress(*died_meanwhile):
            if not any(ingress.broadcast("drain").results(timeout_s=left)):
                return True
        time.sleep(POLL_SECONDS)
    return False
