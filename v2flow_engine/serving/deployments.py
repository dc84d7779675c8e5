"""Settings -> a Ray Serve application of three deployments: ingress, token generator, decoder.

Each has its own replicas, autoscaling and draining. The batching is the engines' own: a replica takes as many requests
as its engine may hold, and Serve queues none in front of it but those that wait for a replica to start.
Imports Ray when called.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from v2flow_engine.errors import RequestError
from v2flow_engine.serving.settings import Replicas, ServerSettings
from v2flow_engine.serving.tracing import tracing_to

if TYPE_CHECKING:
    import numpy as np
    from fastapi import FastAPI
    from ray.serve import Application

    from v2flow_engine.decoding.request import DecodeRequest
    from v2flow_engine.engine_worker import EngineWorker
    from v2flow_engine.generation.request import TokenRequest
    from v2flow_engine.serving.backend import Drawn, EncodedPicture
    from v2flow_engine.serving.tracing import Tracing

APP_NAME = "v2flow"
INGRESS, TOKENS, DECODER = "Ingress", "TokenGenerator", "Decoder"
DEAD_ENGINE_STATUS = 70
HEALTH_SECONDS = 5.0
# That fail, for each replica of the beginning: what does not load will not load the tenth time either.
STARTS = 2


class StageReplica:
    """One engine, and what Serve and the ingress ask of either kind."""

    worker: EngineWorker[Any, Any, Any]
    tracing: Tracing

    async def answer(self) -> dict[str, Any]:
        """A sign of life from the engine's thread, and its counters."""
        await asyncio.wrap_future(self.worker.call(lambda engine: None))
        return {"replica": _own_id(), **dataclasses.asdict(self.worker.stats)}

    async def check_health(self) -> None:
        """Serve asks this now and then, and replaces the replica if it raises."""
        if self.worker.over:
            raise RuntimeError(f"the {self.worker.name} engine is gone")

    def __del__(self) -> None:
        """Serve calls this before it ends the replica, which runs nothing else of Python's own end."""
        self.tracing.flush()


class TokenGeneratorReplica(StageReplica):
    """One token engine. When it dies, so does the replica: Serve starts another, and callers ask again."""

    def __init__(self, settings: ServerSettings, threads: int) -> None:
        from v2flow_engine.serving.stages import start_token_worker

        self.tracing = tracing_to(settings.traces_url)
        self.worker = start_token_worker(_open(settings, threads), settings, on_death=_end_process)
        _wait_for(self.worker)

    async def write_tokens(self, request: TokenRequest, trace: str | None = None) -> list[int]:
        """See `Backend`."""
        from v2flow_engine.serving.stages import write_with

        return await write_with(self.worker, request, self.tracing, trace)


class DecoderReplica(StageReplica):
    """One decoder engine, which also encodes."""

    def __init__(self, settings: ServerSettings, threads: int) -> None:
        from v2flow_engine.serving.stages import start_decoder_worker

        self.tracing = tracing_to(settings.traces_url)
        self.folder = _open(settings, threads)
        self.worker = start_decoder_worker(self.folder, settings, on_death=_end_process)
        _wait_for(self.worker)

    async def decode(
        self, request: DecodeRequest, previews: list[int], trace: str | None = None
    ) -> AsyncIterator[Drawn]:
        """See `Backend`."""
        from v2flow_engine.serving.stages import decode_with

        async for drawn in decode_with(self.worker, request, previews, self.tracing, trace):
            yield drawn

    async def encode(self, pixels: np.ndarray, trace: str | None = None) -> EncodedPicture:
        """See `Backend`."""
        from v2flow_engine.serving.stages import encode_with

        return await encode_with(self.worker, self.folder, pixels, self.tracing, trace)


class IngressReplica:
    """HTTP: the same app as in a single process, over handles to the two stages."""

    def __init__(self, settings: ServerSettings, tokens: Any, decoder: Any) -> None:
        from v2flow_engine.serving.draining import Gate

        self.settings, self.tokens, self.decoder = settings, tokens, decoder
        self.gate = Gate()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve calls this in the replica."""
        from starlette.middleware import Middleware

        from v2flow_engine.checkpoint import open_model
        from v2flow_engine.serving.app import create_app
        from v2flow_engine.serving.draining import Gated
        from v2flow_engine.serving.logs import log_to_stderr
        from v2flow_engine.serving.ray_backend import RayBackend

        log_to_stderr()
        backend = RayBackend(self.tokens, self.decoder)
        app = create_app(
            open_model(self.settings.model_dir), backend, self.settings, replica=_own_id(), outer_ids=True
        )
        app.user_middleware.append(Middleware(Gated, gate=self.gate))
        return app

    async def drain(self) -> int:
        """Take no more work from now on; returns how many requests are under way."""
        self.gate.closed = True
        return self.gate.under_way


def build(
    settings: ServerSettings, *, cpus: float, gpus: float, threads: int, ingress_cpus: float = 0
) -> Application:
    """The application. cpus, gpus: that each replica of a stage reserves; threads: torch's in it, 0 for its own."""
    from ray import serve

    stage = {
        "max_ongoing_requests": 2
        * (settings.limits.pictures + settings.limits.batch_pictures),  # the workers refuse first
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
        "health_check_period_s": HEALTH_SECONDS,
        "graceful_shutdown_timeout_s": settings.drain_seconds,
        "graceful_shutdown_wait_loop_s": 0.5,
    }
    tokens = serve.deployment(
        name=TOKENS, **stage, **_scaling(settings.token_replicas, settings.max_num_seqs)
    )(TokenGeneratorReplica)
    decoder = serve.deployment(
        name=DECODER, **stage, **_scaling(settings.decoder_replicas, settings.max_num_seqs)
    )(DecoderReplica)
    ingress = serve.deployment(
        name=INGRESS,
        max_ongoing_requests=4 * settings.limits.pictures,
        ray_actor_options={"num_cpus": ingress_cpus},
        graceful_shutdown_timeout_s=settings.drain_seconds,
        **_scaling(settings.ingress_replicas, settings.limits.pictures),
    )(serve.ingress()(IngressReplica))
    return ingress.bind(settings, tokens.bind(settings, threads), decoder.bind(settings, threads))


def build_from_args(args: dict[str, Any]) -> Application:
    """For a Serve config file: `import_path: v2flow_engine.serving.deployments:build_from_args`.

    args: fields of `ServerSettings` (replicas as "1-4"); `model`, a name or folder, in place of `model_dir`; `cpus`,
    `gpus` and `threads` of each replica of a stage, and `ingress_cpus`. Raises `V2FlowError` for what is none of these.
    """
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.serving.settings import Limits

    given = dict(args)
    defaults = {"cpus": 1, "gpus": 0, "threads": 0, "ingress_cpus": 0}
    share = {name: given.pop(name, default) for name, default in defaults.items()}
    if "model" in given:
        given["model_dir"] = str(open_model(given.pop("model")).path.resolve())
    for name in ("token_replicas", "decoder_replicas", "ingress_replicas"):
        if name in given:
            given[name] = Replicas.parse(str(given[name]))
    for name in ("names", "key_digests", "cors_origins"):
        if name in given:
            given[name] = tuple(given[name])
    try:
        if "limits" in given:
            given["limits"] = Limits(**given["limits"])
        settings = ServerSettings(**given)
    except TypeError as error:  # a field that is missing or unknown; the message names it
        raise RequestError(f"args of the Serve config: {error}") from error
    return build(settings, **share)


def _scaling(replicas: Replicas, target: int) -> dict[str, Any]:
    """Fixed, or by load: `target` requests for each replica."""
    starts = {"max_constructor_retry_count": STARTS * replicas.least}
    if replicas.least == replicas.most:
        return {"num_replicas": replicas.least} | starts
    return starts | {
        "autoscaling_config": {
            "min_replicas": replicas.least,
            "max_replicas": replicas.most,
            "target_ongoing_requests": target,
        }
    }


def _open(settings: ServerSettings, threads: int) -> Any:
    import torch

    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.serving.logs import log_to_stderr

    log_to_stderr()
    if threads:
        torch.set_num_threads(threads)
    return open_model(settings.model_dir)


def _wait_for(worker: EngineWorker[Any, Any, Any]) -> None:
    """Until its engine serves: Serve sends nothing to a replica before. Raises what keeps it from starting."""
    worker.call(lambda engine: None).result()


def _own_id() -> str:
    """Of the replica that this runs in."""
    from ray import serve

    return serve.get_replica_context().replica_id.unique_id


def _end_process(cause: BaseException) -> None:
    print(f"the engine is dead, ending this replica: {cause}", file=sys.stderr, flush=True)
    os._exit(DEAD_ENGINE_STATUS)
