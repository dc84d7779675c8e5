"""Pictures -> batches of one size each: a decoder that gets them computes no padding, and vLLM's rows end together.

Holds at most one unfilled batch for each size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from v2flow_engine.generation.image_request import ImageRequest


def by_size(requests: Iterable[ImageRequest], rows_per_batch: int) -> Iterator[list[ImageRequest]]:
    """Batches as they fill; at the end what is left, the fullest first, also before an error of the source."""
    filling: dict[str, list[ImageRequest]] = {}
    failure: Exception | None = None
    try:
        for request in requests:
            batch = filling.setdefault(request.parameters.size, [])
            batch.append(request)
            if len(batch) >= rows_per_batch:
                yield filling.pop(request.parameters.size)
    except Exception as error:
        failure = error
    yield from sorted(filling.values(), key=len, reverse=True)
    if failure is not None:
        raise failure
