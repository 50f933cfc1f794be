import asyncio
import logging

import pytest

from raymlops.errors import TooManyRequestsError
from raymlops.serving.transport import rate_limit
from raymlops.serving.transport.rate_limit import Bank, RateLimit, SharedLease


class Shared:
    """Counts for all replicas, unless it is away."""

    def __init__(self, burst: float) -> None:
        self.bank = Bank(0.001, burst)
        self.is_away: Exception | str | None = None

    async def lease(self, caller: str, wanted: float) -> float:
        if isinstance(self.is_away, Exception):
            raise self.is_away
        if self.is_away:
            await asyncio.Event().wait()
        return await self.bank.lease(caller, wanted)


async def count(limit: RateLimit, requests: int, caller: str = "app") -> int:
    """Requests that are admitted."""
    admitted = 0
    for _ in range(requests):
        try:
            await limit.admit(caller)
            admitted += 1
        except TooManyRequestsError:
            limit._held.clear()  # ask again at once
    return admitted


@pytest.mark.parametrize(
    "away", [RuntimeError("the actor died\nlong story"), TypeError("old"), "hangs"], ids=str
)
def test_while_nobody_counts_for_all_each_replica_gives_its_share(
    away: Exception | str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rate_limit, "START_S", 0.01)
    monkeypatch.setattr(rate_limit, "PATIENCE_S", 0.01)

    async def go() -> None:
        shared = Shared(burst=20)
        shared.is_away = away
        replicas = [RateLimit(0.001, SharedLease(shared.lease, Bank(0.0005, 10))) for _ in range(2)]
        assert [await count(replica, 30) for replica in replicas] == [10, 10]

    with caplog.at_level(logging.INFO):
        asyncio.run(go())
    assert caplog.text.count("each replica counts by itself for now") == 2
    assert "long story" not in caplog.text


def test_it_counts_for_all_again_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rate_limit, "RETRY_S", 0.0)

    async def go() -> None:
        shared = Shared(burst=5)
        lease = SharedLease(shared.lease, Bank(0.001, 1))
        limit = RateLimit(0.001, lease)
        assert await count(limit, 3) == 3
        shared.is_away = OSError("the node is lost")
        assert await count(limit, 30) == 1
        shared.is_away = None
        while "count together again" not in caplog.text:
            await count(limit, 1, "other")
        assert await count(limit, 30) == 2

    with caplog.at_level(logging.INFO):
        asyncio.run(asyncio.wait_for(go(), 60))


def test_nobody_waits_while_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """But those whose requests were the first to notice."""
    monkeypatch.setattr(rate_limit, "START_S", 0.01)
    asked = 0

    async def hang(caller: str, wanted: float) -> float:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()
        raise AssertionError

    async def go() -> None:
        limit = RateLimit(1000.0, SharedLease(hang, Bank(1000.0, 1000.0)))
        await limit.admit("first")
        for number in range(500):
            await limit.admit(str(number))

    asyncio.run(go())
    assert asked == 1


def test_a_bucket_takes_the_limits_of_whoever_leases() -> None:
    """So that a bank that was started again, or made by an earlier deployment, has those of today."""

    async def go() -> list[float]:
        bank = Bank(0.001, 5)
        return [
            await bank.lease("a", 7, 0.001, 10),
            await bank.lease("a", 100, 0.001, 2),  # lowered
            await bank.lease("a", 100, 0.001, 10),  # two replicas of two versions win nothing by turns
            await bank.lease("b", 100, 0.001, 10),
            await bank.lease("c", 100),
        ]

    assert [round(granted) for granted in asyncio.run(go())] == [7, 2, 0, 10, 5]


@pytest.mark.parametrize("burst", [100, 7])
def test_requests_at_once_get_all_there_is_by_one_lease_after_another(burst: int) -> None:
    async def go() -> None:
        bank, leasing = Bank(0.001, burst), [0, 0]

        async def lease(caller: str, wanted: float) -> float:
            leasing[0] += 1
            leasing[1] = max(leasing)
            await asyncio.sleep(0)
            granted = await bank.lease(caller, wanted)
            leasing[0] -= 1
            return granted

        limit = RateLimit(100, lease)
        asked = [asyncio.ensure_future(limit.admit("app")) for _ in range(200)]
        await asyncio.sleep(0)
        asked[0].cancel()  # whoever gives up takes nothing from the others
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(answer is None for answer in told) == burst
        assert sum(isinstance(answer, TooManyRequestsError) for answer in told) == 199 - burst
        assert leasing == [0, 1]

    asyncio.run(go())
