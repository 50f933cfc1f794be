"""The actor that counts requests for all replicas of an application, and leases from it. It needs no CPU and is started
again on any node when its own is lost; buckets are full then. What a caller may send meanwhile is `rates`' to say."""

import asyncio
from typing import Any

import ray

from raymlops.serving.rates import Bank, SharedLease
from raymlops.specs.serving import ServingSpec


def make_lease(spec: ServingSpec) -> SharedLease:
    """Leases from one bank for all replicas; while it is away each replica gives its share of the limits."""
    return SharedLease(_SharedBank(spec).lease, Bank(*share_limits(spec)))


def share_limits(spec: ServingSpec) -> tuple[float, float]:
    """Rate and burst of one of as many replicas as there may be."""
    replicas = spec.autoscaling.max if spec.autoscaling is not None else spec.replicas
    return spec.limits.rate / replicas, max(1.0, spec.limits.burst / replicas)


class _SharedBank:
    def __init__(self, spec: ServingSpec) -> None:
        self._name, self._limits = spec.name, (spec.limits.rate, spec.limits.burst)
        self._bank = self._find()

    def _find(self) -> Any:
        """The actor, which outlives replicas; made where there is none, or where it has ended for good."""
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1)(Bank)
        return actor.options(
            name=f"raymlops-rate-bank-{self._name}",
            get_if_exists=True,
            lifetime="detached",
            namespace="raymlops",
        ).remote(*self._limits)

    async def lease(self, caller: str, wanted: float) -> float:
        try:
            return float(await self._bank.lease.remote(caller, wanted, *self._limits))
        except ray.exceptions.ActorUnavailableError:  # it is being started again
            raise
        except ray.exceptions.RayActorError:
            self._bank = await asyncio.to_thread(self._find)
            raise
