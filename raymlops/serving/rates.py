"""How many requests a second a key, or an address without one, may send: a token bucket, and leases from a bucket that
all replicas share. What is kept of callers is bounded: whoever did not call for the longest time is forgotten first."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Any

from raymlops.errors import TooManyRequestsError

Lease = Callable[[str, float], Awaitable[float]]
"""(caller, tokens wanted) -> tokens granted by whoever counts for all replicas."""


class Bucket:
    """Fills at `rate` a second up to `burst`; `now` is in seconds."""

    def __init__(self, rate: float, burst: float, now: float = 0.0) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._filled = burst, now

    def take(self, wanted: float, now: float) -> float:
        """Take up to `wanted` tokens; returns how many there were."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        taken = min(wanted, self._tokens) if self._tokens >= 1 else 0.0
        self._tokens -= taken
        return taken


_CALLERS = 20_000
"""That are remembered; a caller that is forgotten begins with a full bucket."""


class RateLimit:
    """Admits requests of a caller at most `rate` a second over all replicas that lease from the same bank.

    A replica leases a tenth of a second's worth at once, so most requests ask nobody.
    """

    def __init__(self, rate: float, lease: Lease) -> None:
        self._rate = rate
        self._chunk = max(1.0, rate * 0.1)
        self._lease = lease
        self._held: dict[str, _Lease] = {}

    async def admit(self, caller: str) -> None:
        """Return if the caller may go on. Raises TooManyRequestsError."""
        held = self._held.get(caller)
        if held is None:
            held = self._held[caller] = _Lease()
            _forget_oldest(self._held)
        now = time.monotonic()
        if held.tokens < 1 and now >= held.refused_until:
            held.tokens += await self._lease(caller, self._chunk)
            if held.tokens < 1:
                held.refused_until = now + min(1.0, 1 / self._rate)
        if held.tokens < 1:
            raise TooManyRequestsError(
                f"{caller or 'anonymous'!r} may send {self._rate:g} requests a second",
                retry_after=max(1.0, 1 / self._rate),
            )
        held.tokens -= 1


@dataclasses.dataclass(slots=True)
class _Lease:
    tokens: float = 0.0
    refused_until: float = 0.0


def _forget_oldest(kept: dict[str, Any]) -> None:
    while len(kept) > _CALLERS:
        del kept[next(iter(kept))]


class Bank:
    """Buckets of all callers, for one process; behind a Ray actor it is that of all replicas."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[str, Bucket] = {}

    async def lease(self, caller: str, wanted: float) -> float:
        now = time.monotonic()
        bucket = self._buckets.pop(caller, None) or Bucket(self._rate, self._burst, now)
        self._buckets[caller] = bucket  # the latest one is the last one
        _forget_oldest(self._buckets)
        await asyncio.sleep(0)
        return bucket.take(wanted, now)

    def set_rate(self, rate: float, burst: float) -> None:
        """Other limits from now on; buckets start full."""
        if (rate, burst) != (self._rate, self._burst):
            self._rate, self._burst = rate, burst
            self._buckets.clear()
