"""API keys -> who calls, and whether that was too often. Only digests of keys are kept."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict

from v2flow_engine.errors import QueueFullError

MAX_CALLERS = 10_000


def digest(key: str) -> str:
    """SHA-256 of a key, in hex. Keys are long and random, so a slow hash would protect nothing more."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Keys:
    """Which keys may call; without any, everybody may."""

    def __init__(self, digests: tuple[str, ...]) -> None:
        self._digests = digests

    @property
    def required(self) -> bool:
        """Whether a key is needed."""
        return bool(self._digests)

    def caller(self, key: str) -> str | None:
        """The digest of a key that may call, or None. Takes as long for a wrong one as for a right one."""
        given, found = digest(key), None
        for known in self._digests:
            if hmac.compare_digest(given, known):
                found = known
        return found


class RateLimit:
    """Requests of each caller within a minute: a bucket that holds `per_minute`, and fills again evenly."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def count(self, caller: str) -> None:
        """One more request. Raises `QueueFullError` saying when the next one is welcome."""
        now = time.monotonic()
        left, before = self._buckets.pop(caller, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - before) * self.per_minute / 60)
        allowed = left >= 1
        self._buckets[caller] = (left - allowed, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = (1 - left) * 60 / self.per_minute
            raise QueueFullError(f"at most {self.per_minute} requests in a minute", retry_after=wait)
