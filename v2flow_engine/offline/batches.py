"""Pictures -> batches of one size each: a decoder that gets them computes no padding, and vLLM's rows end together.

Who shares a batch follows from the order of the input alone. A picture's last bits depend on its batch's shape wherever
the arithmetic does, so a resumed job makes a batch again as it was, with those of it that are finished. Holds at most
one unfilled batch for each size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from v2flow_engine.offline.planning import Picture
    from v2flow_engine.offline.resume import Finished

Item = TypeVar("Item")


def by_size(
    requests: Iterable[Item],
    rows_per_batch: int,
    size_of: Callable[[Item], str] = attrgetter("parameters.size"),
) -> Iterator[list[Item]]:
    """Batches as they fill; at the end what is left, the fullest first, also before an error of the source."""
    filling: dict[str, list[Item]] = {}
    failure: Exception | None = None
    try:
        for request in requests:
            batch = filling.setdefault(size_of(request), [])
            batch.append(request)
            if len(batch) >= rows_per_batch:
                yield filling.pop(size_of(request))
    except Exception as error:
        failure = error
    yield from sorted(filling.values(), key=len, reverse=True)
    if failure is not None:
        raise failure


def unfinished(
    pictures: Iterable[Picture], finished: Finished, rows_per_batch: int
) -> Iterator[tuple[list[Picture], list[Picture]]]:
    """A job's batches of which pictures are missing, each whole, and with it those pictures."""
    for batch in by_size(pictures, rows_per_batch, attrgetter("request.parameters.size")):
        missing = [picture for picture in batch if not finished.holds(picture)]
        if missing:
            yield batch, missing
