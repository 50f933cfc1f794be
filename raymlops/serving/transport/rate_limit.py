"""Limits requests per second of a key, or of an address without one: a token bucket, and leases from a bucket that
all replicas share. The number of remembered callers is bounded: the least recent one is forgotten first."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from raymlops.errors import TooManyRequestsError

LOG = logging.getLogger("raymlops.serving")
Lease = Callable[[str, float], Awaitable[float]]
"""(caller, tokens wanted) -> tokens granted by the shared counter of all replicas."""


class Bucket:
    """Fills at `rate` per second up to `burst`; `now` is in seconds."""

    def __init__(self, rate: float, burst: float, now: float = 0.0) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._filled = burst, now

    def set_limits(self, rate: float, burst: float, now: float) -> None:
        """Change the limits; alternating replicas of two versions gain no tokens by it."""
        if (rate, burst) != (self._rate, self._burst):
            self.take(0.0, now)
            self._rate, self._burst = rate, burst

    def take(self, wanted: float, now: float) -> float:
        """Take up to `wanted` tokens; returns how many there were."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        taken = min(wanted, self._tokens) if self._tokens >= 1 else 0.0
        self._tokens -= taken
        return taken


_CALLERS = 20_000
"""Number of callers that are remembered; a forgotten one starts with a full bucket."""


class RateLimit:
    """Admits at most `rate` requests per second of a caller, over all replicas that lease from the same bank.

    A replica leases a tenth of a second's worth at once, so most requests need no call.
    """

    def __init__(self, rate: float, lease: Lease) -> None:
        self._rate = rate
        self._chunk = max(1.0, rate * 0.1)
        self._lease = lease
        self._held: dict[str, _Lease] = {}

    async def admit(self, caller: str) -> None:
        """Return if the caller may continue. Raises TooManyRequestsError."""
        held = self._held.get(caller)
        if held is None:
            held = self._held[caller] = _Lease()
            _forget_oldest(self._held)
        while held.tokens < 1 and time.monotonic() >= held.refused_until:
            if held.filling is None:  # one lease at a time: tokens that others got meanwhile are shared
                held.filling = asyncio.get_running_loop().create_task(self._fill(caller, held))
            await asyncio.shield(held.filling)  # a waiter that gives up leaves it to the others
        if held.tokens < 1:
            raise TooManyRequestsError(
                f"{caller or 'anonymous'!r} may send {self._rate:g} requests a second",
                retry_after=max(1.0, 1 / self._rate),
            )
        held.tokens -= 1

    async def _fill(self, caller: str, held: "_Lease") -> None:
        try:
            granted = await self._lease(caller, self._chunk)
            held.tokens += granted
            if held.tokens < 1:
                held.refused_until = time.monotonic() + min(1.0, 1 / self._rate)
        finally:
            held.filling = None


@dataclasses.dataclass(slots=True)
class _Lease:
    tokens: float = 0.0
    refused_until: float = 0.0
    filling: asyncio.Task[None] | None = None


def _forget_oldest(kept: dict[str, Any]) -> None:
    while len(kept) > _CALLERS:
        del kept[next(iter(kept))]


class Bank:
    """Buckets of all callers, for one process; in a Ray actor, for all replicas."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[str, Bucket] = {}

    async def lease(
        self, caller: str, wanted: float, rate: float | None = None, burst: float | None = None
    ) -> float:
        """Up to `wanted` tokens of the caller's bucket, with the lessee's limits if they are given."""
        now = time.monotonic()
        rate, burst = rate or self._rate, burst or self._burst
        bucket = self._buckets.pop(caller, None) or Bucket(rate, burst, now)
        self._buckets[caller] = bucket  # the latest deployment's limits win
        _forget_oldest(self._buckets)
        await asyncio.sleep(0)
        bucket.set_limits(rate, burst, now)
        return bucket.take(wanted, now)


PATIENCE_S = 1.0
"""Longest wait for the shared counter."""
START_S = 10.0
"""The same before it has answered for the first time: it may be starting."""
RETRY_S = 2.0
"""Pause between two checks whether it answers again."""


class SharedLease:
    """Leases from the shared counter of all replicas. While it does not answer, a bank of this replica alone grants
    its share of the rate: callers are neither let through without a limit nor refused."""

    def __init__(self, ask: Lease, own: Bank) -> None:
        self._ask = ask
        self._own = own
        self._patience_s = START_S
        self._is_away = False
        self._next_probe = 0.0
        self._probe: asyncio.Task[None] | None = None

    async def __call__(self, caller: str, wanted: float) -> float:
        if not self._is_away:
            try:
                return await self._ask_in_time(caller, wanted)
            except Exception as error:  # whatever the error, it is not the caller's fault
                if not self._is_away:
                    LOG.error("rate limit: each replica counts by itself for now: %s", describe(error))
                self._is_away = True
                self._next_probe = time.monotonic() + RETRY_S
        if time.monotonic() >= self._next_probe and (self._probe is None or self._probe.done()):
            self._probe = asyncio.get_running_loop().create_task(self._try_shared_again())
        return await self._own.lease(caller, wanted)

    async def _ask_in_time(self, caller: str, wanted: float) -> float:
        granted = await asyncio.wait_for(self._ask(caller, wanted), self._patience_s)
        self._patience_s = PATIENCE_S
        return granted

    async def _try_shared_again(self) -> None:
        """Runs in the background: no request waits for this."""
        try:
            await self._ask_in_time("", 0.0)
        except Exception as error:
            LOG.debug("rate limit: this replica still counts alone: %s", describe(error))
        else:
            self._is_away = False
            LOG.info("rate limit: all replicas count together again")
        finally:
            self._next_probe = time.monotonic() + RETRY_S


def describe(error: BaseException) -> str:
    """Kind and first line of an error whose text may be a page."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
