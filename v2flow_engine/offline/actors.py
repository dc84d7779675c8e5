"""The Ray Data stages: a batch of requests -> their visual_token_ids -> their image files.

Each callable class loads its half of the model once per actor. A dataset row is one batch: `number`, and `batch`, the
pickled messages of `stages`. Imports neither Ray nor vLLM by itself.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from v2flow_engine.errors import EngineDeadError
from v2flow_engine.generation.batch_invariance import use_batch_invariant_kernels
from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.offline.feed import note_begun, worker_name
from v2flow_engine.offline.stages import FinishedImage, TokenResult, make_images, make_tokens

if TYPE_CHECKING:
    from ray.actor import ActorHandle

Rows = dict[str, Any]
DEAD_ENGINE_STATUS = 70


@dataclass(frozen=True)
class ActorConfig:
    """What an actor needs to start.

    model: a name, a folder (the same on every node) or a URL. device: of the decoder. identity: what names the model in
    every picture's metadata. guided: whether any row asks for guidance in the LLM. dtype: of both stages, see
    `precision`. gpus: the share of one that the actor has. batch_invariant: nothing of a picture depends on its batch
    (CUDA only): vLLM's kernels for that, and a decoder that makes one picture at a time.
    """

    model: str
    device: str
    image_format: str
    identity: dict[str, Any]
    guided: bool
    dtype: str = "auto"
    gpus: float = 0.0
    batch_invariant: bool = False


@dataclass(frozen=True)
class TokenBatch:
    """What goes from the first stage to the second."""

    requests: Sequence[ImageRequest]
    results: Sequence[TokenResult]


class StageActor:
    """What both stages do with a row: note that it is begun, make it, and end with a broken engine or device."""

    pool: ClassVar[str]
    feed: ActorHandle
    worker: str

    def __call__(self, rows: Rows) -> Rows:
        """A row for each that comes in; of one that is finished already, an empty one."""
        made = [
            self._begin(int(number), bytes(data)) if len(data) else b""
            for number, data in zip(rows["number"], rows["batch"], strict=True)
        ]
        column = np.empty(len(made), dtype=object)
        column[:] = made
        return {"number": rows["number"], "batch": column}

    def _begin(self, number: int, data: bytes) -> bytes:
        note_begun(self.feed, number, self.pool, self.worker)
        try:
            return self._make(number, data)
        except EngineDeadError as error:
            # Ray restarts a process that ends and hands it the batch again; a dead engine inside would fail
            # for ever.
            print(f"the engine is dead, ending this actor: {error}", file=sys.stderr, flush=True)
            os._exit(DEAD_ENGINE_STATUS)

    def _make(self, number: int, data: bytes) -> bytes:
        raise NotImplementedError


class TokenActor(StageActor):
    """Batches of requests -> `TokenBatch`es."""

    pool = "tokens"

    def __init__(self, config: ActorConfig, feed: ActorHandle) -> None:
        # The actor is a process of its own already; a second one for the engine would only start slower.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if config.batch_invariant:
            use_batch_invariant_kernels()
        from v2flow_engine.generation.token_generator import TokenGenerator
        from v2flow_engine.offline.model_source import open_same_model

        self.feed, self.worker = feed, worker_name()
        self.folder = open_same_model(config.model, config.identity.get("model_digest"))
        # What earlier batches left in the cache must not decide how the next one is computed.
        engine_args: dict[str, Any] = {"enable_prefix_caching": False}
        if 0 < config.gpus < 1:
            engine_args["gpu_memory_utilization"] = 0.9 * config.gpus
        self.generator = TokenGenerator(
            self.folder, dtype=config.dtype, guided=config.guided, engine_args=engine_args
        )

    def _make(self, number: int, data: bytes) -> bytes:
        requests: list[ImageRequest] = pickle.loads(data)
        results = make_tokens(self.folder, self.generator, requests)
        self.feed.note.remote(number, "between", self.worker)
        return pickle.dumps(TokenBatch(requests, results))


class DecoderActor(StageActor):
    """`TokenBatch`es -> lists of `FinishedImage`s."""

    pool = "decoder"

    def __init__(self, config: ActorConfig, feed: ActorHandle) -> None:
        from v2flow_engine.decoding.load import load_decoder
        from v2flow_engine.offline.model_source import open_same_model
        from v2flow_engine.precision import decoder_dtype

        self.config, self.feed, self.worker = config, feed, worker_name()
        self.folder = open_same_model(config.model, config.identity.get("model_digest"))
        self.decoder = load_decoder(
            self.folder, device=config.device, dtype=decoder_dtype(config.dtype, config.device)
        )

    def _make(self, number: int, data: bytes) -> bytes:
        batch: TokenBatch = pickle.loads(data)
        size = 1 if self.config.batch_invariant else len(batch.requests)
        finished = [
            image
            for start in range(0, len(batch.requests), size)
            for image in make_images(
                self.folder,
                self.decoder,
                batch.requests[start : start + size],
                batch.results[start : start + size],
                self.config.image_format,
                self.config.identity,
            )
        ]
        self.feed.note.remote(number, "done", self.worker)
        return pickle.dumps(finished)


def finished_images(data: bytes) -> list[FinishedImage]:
    """The content of a row that left the last stage."""
    return pickle.loads(data) if data else []
