"""The actor that counts requests for all replicas of an application, and leases from it. When it was lost and comes
back, buckets are full. What a caller may send meanwhile is `rates`' to say."""

from raymlops.serving.actors.shared_actor import SharedActor
from raymlops.serving.transport.rate_limit import Bank, SharedLease
from raymlops.specs.serving import ServingSpec


def make_lease(spec: ServingSpec) -> SharedLease:
    """Leases from one bank for all replicas; while it is away each replica gives its share of the limits."""
    limits = spec.limits.rate, spec.limits.burst
    bank = SharedActor(Bank, f"raymlops-rate-bank-{spec.name}", *limits)

    async def lease(caller: str, wanted: float) -> float:
        return float(await bank.call("lease", caller, wanted, *limits))

    return SharedLease(lease, Bank(*share_limits(spec)))


def share_limits(spec: ServingSpec) -> tuple[float, float]:
    """Rate and burst of one of as many replicas as there may be."""
    replicas = spec.autoscaling.max if spec.autoscaling is not None else spec.replicas
    return spec.limits.rate / replicas, max(1.0, spec.limits.burst / replicas)
