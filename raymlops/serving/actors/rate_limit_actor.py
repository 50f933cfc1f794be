"""The actor that counts requests for all replicas of an application, and the leases from it. After a loss it starts
with full buckets. `rate_limit` decides what a caller may send meanwhile."""

from raymlops.serving.actors.shared_actor import SharedActor
from raymlops.serving.transport.rate_limit import Bank, SharedLease
from raymlops.specs.serving import ServingSpec


def make_lease(spec: ServingSpec) -> SharedLease:
    """Leases from one bank for all replicas; while it does not answer, each replica grants its share of the limits."""
    limits = spec.limits.rate, spec.limits.burst
    bank = SharedActor(Bank, f"raymlops-rate-bank-{spec.name}", *limits)

    async def lease(caller: str, wanted: float) -> float:
        return float(await bank.call("lease", caller, wanted, *limits))

    return SharedLease(lease, Bank(*share_limits(spec)))


def share_limits(spec: ServingSpec) -> tuple[float, float]:
    """Rate and burst of one replica if there are as many replicas as possible."""
    replicas = spec.autoscaling.max if spec.autoscaling is not None else spec.replicas
    return spec.limits.rate / replicas, max(1.0, spec.limits.burst / replicas)
