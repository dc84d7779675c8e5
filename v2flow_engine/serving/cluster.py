"""Settings -> the same server as three deployments on Ray Serve, until a signal ends it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from v2flow_engine.offline.cluster import cluster_resources, ray_cluster
from v2flow_engine.offline.sizing import plan
from v2flow_engine.serving.deployments import APP_NAME, build
from v2flow_engine.serving.proxy import CALLBACK, VARIABLE

if TYPE_CHECKING:
    from v2flow_engine.serving.settings import ServerSettings

MANY = 10**6  # pictures: as many as keep all replicas busy
POLL_SECONDS = 0.2
ENDINGS = (signal.SIGINT, signal.SIGTERM)


def serve(settings: ServerSettings, host: str, port: int) -> int:
    """Returns 0 after a signal, 1 if an engine did not start. Raises `EngineDeadError` if Ray does not start."""
    ended = threading.Event()
    begun = time.monotonic()
    os.environ.setdefault(VARIABLE, CALLBACK)
    with ray_cluster():
        from ray import serve as ray_serve

        sizing = plan(MANY, cluster_resources(), settings.token_replicas.most, settings.decoder_replicas.most)
        application = build(
            settings, cpus=sizing.cpus_per_actor, gpus=sizing.gpus_per_actor, threads=sizing.threads
        )
        try:
            ray_serve.start(http_options={"host": host, "port": port, "keep_alive_timeout_s": 30})
            for ending in ENDINGS:  # only now: Ray sets its own as it starts
                signal.signal(ending, lambda *_: sys.exit(0))
            try:
                ray_serve.run(application, name=APP_NAME, route_prefix="/")
            except RuntimeError as error:
                print(f"v2flow: {reason(str(error))}", file=sys.stderr, flush=True)
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


def reason(told: str) -> str:
    """Why Serve gave up, from its message, which holds the traceback of a replica that it started a few times."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = [line for line in lines if "EngineDeadError: " in line]
    return errors[-1].partition("EngineDeadError: ")[2] if errors else (lines or ["Ray Serve gave up"])[0]


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
