"""How many requests a second a key may send: a token bucket, and leases from a bucket that all replicas
share."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from raymlops.errors import TooManyRequestsError

Lease = Callable[[str, float], Awaitable[float]]
"""(key, tokens wanted) -> tokens granted by whoever counts for all replicas."""


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


class RateLimit:
    """Admits requests of a key at most `rate` a second over all replicas that lease from the same bank.

    A replica leases a tenth of a second's worth at once, so most requests ask nobody.
    """

    def __init__(self, rate: float, lease: Lease) -> None:
        self._rate = rate
        self._chunk = max(1.0, rate * 0.1)
        self._lease = lease
        self._held: dict[str, float] = {}
        self._refused_until: dict[str, float] = {}

    async def admit(self, key: str) -> None:
        """Return if the key may go on. Raises TooManyRequestsError."""
        held = self._held.get(key, 0.0)
        now = time.monotonic()
        if held < 1 and now >= self._refused_until.get(key, 0.0):
            granted = await self._lease(key, self._chunk)
            held = self._held.get(key, 0.0) + granted
            if held < 1:
                self._refused_until[key] = now + min(1.0, 1 / self._rate)
        if held < 1:
            self._held[key] = held
            raise TooManyRequestsError(
                f"Key {key or 'anonymous'!r} may send {self._rate:g} requests a second",
                retry_after=max(1.0, 1 / self._rate),
            )
        self._held[key] = held - 1


class Bank:
    """Buckets of all keys, for one process; behind a Ray actor it is that of all replicas."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[str, Bucket] = {}

    async def lease(self, key: str, wanted: float) -> float:
        now = time.monotonic()
        bucket = self._buckets.setdefault(key, Bucket(self._rate, self._burst, now))
        await asyncio.sleep(0)
        return bucket.take(wanted, now)

    def set_rate(self, rate: float, burst: float) -> None:
        """Other limits from now on; buckets start full."""
        if (rate, burst) != (self._rate, self._burst):
            self._rate, self._burst = rate, burst
            self._buckets.clear()
