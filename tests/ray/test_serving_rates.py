"""Replicas that share a bank admit no more than one of them would alone."""

import asyncio

import pytest

from raymlops.errors import TooManyRequestsError
from raymlops.serving.app import _make_lease
from raymlops.serving.rates import RateLimit
from raymlops.specs.serving import ServingSpec


@pytest.mark.usefixtures("ray_cluster")
def test_two_replicas_share_the_rate_of_a_key() -> None:
    limits = {"rate": 0.001, "burst": 10}  # so slow that no token comes while the test runs
    spec = ServingSpec.model_validate({"name": "rates", "models": {"toy": {"source": "x"}}, "limits": limits})
    replicas = [RateLimit(spec.limits.rate, _make_lease(spec)) for _ in range(2)]

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
