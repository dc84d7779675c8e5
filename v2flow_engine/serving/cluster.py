"""Settings -> the same server as three deployments on Ray Serve, until a signal ends it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from v2flow_engine.offline.cluster import ray_cluster
from v2flow_engine.offline.sizing import plan
from v2flow_engine.serving.deployments import APP_NAME, build

if TYPE_CHECKING:
    from v2flow_engine.serving.settings import ServerSettings

MANY = 10**6  # pictures: as many as keep all replicas busy


def serve(settings: ServerSettings, host: str, port: int) -> int:
    """Returns 0 after a signal. Raises `EngineDeadError` if Ray does not start."""
    ended = threading.Event()
    begun = time.monotonic()
    with ray_cluster():
        import ray
        from ray import serve as ray_serve

        resources = ray.cluster_resources()
        sizing = plan(
            MANY,
            int(resources.get("CPU", 1)),
            int(resources.get("GPU", 0)),
            settings.token_replicas.most,
            settings.decoder_replicas.most,
        )
        try:
            ray_serve.start(http_options={"host": host, "port": port, "keep_alive_timeout_s": 30})
            application = build(
                settings, cpus=sizing.cpus_per_actor, gpus=sizing.gpus_per_actor, threads=sizing.threads
            )
            ray_serve.run(application, name=APP_NAME, route_prefix="/")
            for ending in (
                signal.SIGINT,
                signal.SIGTERM,
            ):  # only now: Ray sets handlers of its own as it starts
                signal.signal(ending, lambda *_: ended.set())
            print(f"v2flow: ready after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
            ended.wait()
        finally:
            ray_serve.shutdown()  # drains the replicas first
    return 0
