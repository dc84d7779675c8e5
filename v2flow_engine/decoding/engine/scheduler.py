"""Who runs: first come, first served, within a budget of tokens. Knows nothing of tensors.

The head of the queue waits until there is room for it, and nobody passes it, so every request gets its turn.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from v2flow_engine.errors import RequestError

Waiting = TypeVar("Waiting")


@dataclass(frozen=True)
class _Entry(Generic[Waiting]):
    item: Waiting
    cost: int


class Scheduler(Generic[Waiting]):
    """A queue, and the costs of what runs.

    Args:
        max_tokens: the sum of the costs of what runs at once.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._waiting: OrderedDict[str, _Entry[Waiting]] = OrderedDict()
        self._running: dict[str, int] = {}

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that have a place."""
        return len(self._running)

    @property
    def request_ids(self) -> list[str]:
        """Of all requests, those with a place first."""
        return [*self._running, *self._waiting]

    @property
    def used_tokens(self) -> int:
        """Of the budget."""
        return sum(self._running.values())

    def is_waiting(self, request_id: str) -> bool:
        """Whether it has no place yet."""
        return request_id in self._waiting

    def add(self, request_id: str, item: Waiting, cost: int) -> None:
        """Queue a request. Raises `RequestError` for an id in use, or a cost beyond the whole budget."""
        if request_id in self._waiting or request_id in self._running:
            raise RequestError(f"request id {request_id!r} is already in use")
        if cost > self.max_tokens:
            raise RequestError(f"a request of {cost} tokens exceeds the budget of {self.max_tokens}")
        self._waiting[request_id] = _Entry(item, cost)

    def admit(self) -> list[tuple[str, Waiting]]:
        """Give places to the head of the queue for as long as there is room."""
        admitted, used = [], self.used_tokens
        while self._waiting:
            request_id, entry = next(iter(self._waiting.items()))
            if used + entry.cost > self.max_tokens:
                break
            del self._waiting[request_id]
            self._running[request_id] = entry.cost
            used += entry.cost
            admitted.append((request_id, entry.item))
        return admitted

    def leave(self, request_id: str) -> None:
        """Free the place of a request, running or waiting. Raises `RequestError` if there is none of this id."""
        if self._waiting.pop(request_id, None) is None and self._running.pop(request_id, None) is None:
            raise RequestError(f"no request {request_id!r} is waiting or running")
