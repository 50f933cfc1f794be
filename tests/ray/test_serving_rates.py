"""Replicas that share a bank admit no more than one of them would alone."""

import asyncio
import logging

import pytest
import ray

from raymlops.errors import TooManyRequestsError
from raymlops.serving.actors.rate_limit_actor import make_lease
from raymlops.serving.transport.rate_limit import RateLimit
from raymlops.specs.serving import ServingSpec
from tests.survival.lost_rate_bank import count


@pytest.mark.usefixtures("ray_cluster")
def test_two_replicas_share_the_rate_of_a_key() -> None:
    limits = {"rate": 0.001, "burst": 10}  # so slow that no token comes while the test runs
    spec = ServingSpec.model_validate({"name": "rates", "models": {"toy": {"source": "x"}}, "limits": limits})
    replicas = [RateLimit(spec.limits.rate, make_lease(spec)) for _ in range(2)]

    async def ask() -> list[str]:
        told = []
        for turn in range(30):
            try:
                await replicas[turn % 2].admit("app")
                told.append("admitted")
            except TooManyRequestsError:
                told.append("refused")
        await replicas[0].admit("other")  # each key has its own
        return told

    told = asyncio.run(ask())
    assert told.count("admitted") == 10
    assert told[:10] == ["admitted"] * 10


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("no_restart", [False, True], ids=["its process", "the actor for good"])
def test_the_bank_comes_back_when_it_is_lost(no_restart: bool, caplog: pytest.LogCaptureFixture) -> None:
    limits = {"rate": 0.001, "burst": 10}
    name = f"lost-{no_restart}"
    spec = ServingSpec.model_validate(
        {"name": name, "replicas": 2, "models": {"toy": {"source": "x"}}, "limits": limits}
    )

    async def go() -> None:
        lease = make_lease(spec)
        limit = RateLimit(spec.limits.rate, lease)
        assert await count(limit, "before") == 10
        bank = ray.get_actor(f"raymlops-rate-bank-{name}", namespace="raymlops")
        ray.kill(bank, no_restart=no_restart)
        with caplog.at_level(logging.INFO):
            for number in range(10_000):  # nobody is refused a first request meanwhile
                await limit.admit(f"caller {number}")
                if "count together again" in caplog.text:
                    break
                await asyncio.sleep(0.05)
        assert "each replica counts by itself for now" in caplog.text
        assert await count(limit, "after") == 10

    asyncio.run(asyncio.wait_for(go(), 120))
