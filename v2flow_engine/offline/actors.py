"""The Ray Data stages: batches of request rows -> rows with visual_token_ids -> rows with image bytes.

Each callable class loads its half of the model once per actor. Columns: those of `ImageRequest.to_row`, then
`visual_token_ids`, `error` ("" is none), `seconds`, and last `image`. Imports neither Ray nor vLLM by itself.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from v2flow_engine.errors import EngineDeadError
from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.offline.stages import TokenResult, make_images, make_tokens

Batch = dict[str, Any]
DEAD_ENGINE_STATUS = 70


@dataclass(frozen=True)
class ActorConfig:
    """What an actor needs to start.

    model_dir: absolute path, the same on every node. device: of the decoder. guided: whether any row asks for
    guidance in the LLM. kv_cache_gib: None leaves it to the engine.
    """

    model_dir: str
    device: str
    image_format: str
    parameters: dict[str, Any]
    guided: bool
    kv_cache_gib: float | None


class TokenActor:
    """Rows -> rows + visual_token_ids, error, seconds."""

    def __init__(self, config: ActorConfig) -> None:
        # The actor is a process of its own already; a second one for the engine would only start slower.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from v2flow_engine.checkpoint import open_model
        from v2flow_engine.generation.token_generator import TokenGenerator

        self.folder = open_model(config.model_dir)
        self.generator = TokenGenerator(self.folder, guided=config.guided, kv_cache_gib=config.kv_cache_gib)

    def __call__(self, batch: Batch) -> Batch:
        """A batch of columns of equal length; every row that comes in goes out."""
        try:
            results = make_tokens(self.folder, self.generator, requests_of(batch))
        except EngineDeadError as error:
            # Ray restarts a process that ends and hands it the batch again; a dead engine inside would fail
            # for ever.
            print(f"the engine is dead, ending this actor: {error}", file=sys.stderr, flush=True)
            os._exit(DEAD_ENGINE_STATUS)
        return {
            **batch,
            "visual_token_ids": _object_column(
                [np.asarray(r.visual_token_ids, dtype=np.int64) for r in results]
            ),
            "error": np.asarray([r.error for r in results], dtype=object),
            "seconds": np.asarray([r.seconds for r in results]),
        }


class DecoderActor:
    """Rows with visual_token_ids -> index, image (the file's bytes, empty after an error), error, seconds."""

    def __init__(self, config: ActorConfig) -> None:
        from v2flow_engine.checkpoint import open_model
        from v2flow_engine.decoding.load import load_decoder

        self.config = config
        self.folder = open_model(config.model_dir)
        self.decoder = load_decoder(self.folder, device=config.device)

    def __call__(self, batch: Batch) -> Batch:
        """A batch of columns of equal length; every row that comes in goes out."""
        columns = zip(batch["visual_token_ids"], batch["error"], batch["seconds"], strict=True)
        tokens = [TokenResult([int(i) for i in ids], str(error), float(s)) for ids, error, s in columns]
        finished = make_images(
            self.folder,
            self.decoder,
            requests_of(batch),
            tokens,
            self.config.image_format,
            self.config.parameters,
        )
        return {
            "index": np.asarray([f.index for f in finished]),
            "image": np.asarray([f.image for f in finished], dtype=object),
            "error": np.asarray([f.error for f in finished], dtype=object),
            "seconds": np.asarray([f.seconds for f in finished]),
        }


def requests_of(batch: Batch) -> list[ImageRequest]:
    """The requests of a batch's rows."""
    rows = len(batch["index"])
    return [ImageRequest.from_row({name: column[i] for name, column in batch.items()}) for i in range(rows)]


def _object_column(values: list[np.ndarray]) -> np.ndarray:
    """An object array even if all values have one shape, which numpy would stack."""
    column = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        column[i] = value
    return column
