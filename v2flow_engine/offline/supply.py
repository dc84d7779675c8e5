"""Batches -> the feed actor, in a thread of the driver, never more at once than the pools need."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterator
from typing import Any

from v2flow_engine.generation.image_request import ImageRequest


class Supply:
    """Feeds one pass over the pipeline.

    Args:
        batches: read in the thread.
        limit: pictures that may be under way, those of lost batches included.

    unfinished: batches that were fed, by number. error: what ended the thread before its time.
    """

    def __init__(self, batches: Iterator[list[ImageRequest]], limit: int) -> None:
        self.batches = batches
        self.limit = limit
        self.error: BaseException | None = None
        self.unfinished: dict[int, list[ImageRequest]] = {}
        self._news = threading.Condition()
        self._stopped = False

    @contextlib.contextmanager
    def to(self, feed: Any) -> Iterator[None]:
        """Feed an actor while the block runs."""
        thread = threading.Thread(target=self._run, args=(feed,), name="feed", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._news:
                self._stopped = True
                self._news.notify()
            thread.join()

    def finished(self, number: int) -> None:
        """A batch is: there may be room."""
        with self._news:
            self.unfinished.pop(number, None)
            self._news.notify()

    def _run(self, feed: Any) -> None:
        import ray

        number = 0
        try:
            while self._wait_for_room() and (batch := next(self.batches, None)) is not None:
                with self._news:
                    self.unfinished[number] = batch
                ray.get(feed.put.remote(number, pickle.dumps(batch), len(batch)))  # in this order
                number += 1
        except BaseException as error:
            self.error = error
        feed.end.remote(number)

    def _wait_for_room(self) -> bool:
        with self._news:
            self._news.wait_for(lambda: self._stopped or sum(map(len, self.unfinished.values())) < self.limit)
            return not self._stopped
