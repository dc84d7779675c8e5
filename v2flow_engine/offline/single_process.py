"""Requests -> finished images in this process, a batch at a time: the offline path for a handful of pictures.

The same stages as the Ray actors run, without Ray's start-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from v2flow_engine.generation.image_request import ImageRequest
from v2flow_engine.generation.pipeline import DECODER_BATCH, Pipeline
from v2flow_engine.offline.batches import by_size
from v2flow_engine.offline.stages import FinishedImage, make_images, make_tokens


def run_here(
    model: str | Path,
    requests: Iterable[ImageRequest],
    image_format: str,
    identity: dict[str, Any],
    dtype: str = "auto",
) -> Iterator[FinishedImage]:
    """Load the model, then yield one `FinishedImage` per request. Raises `EngineDeadError`."""
    with Pipeline.from_pretrained(model, dtype=dtype) as pipeline:
        for batch in by_size(requests, DECODER_BATCH):
            tokens = make_tokens(pipeline.folder, pipeline.token_generator, batch)
            yield from make_images(pipeline.folder, pipeline.decoder, batch, tokens, image_format, identity)
