"""What a search asks of the cluster, checked before anything starts: a clear error instead of a hang."""

import dataclasses
import math

import ray

from raymlops.errors import ResourceError
from raymlops.specs.experiment import ExperimentSpec


@dataclasses.dataclass(frozen=True)
class Demand:
    """Resources of one trial."""

    cpus: float
    gpus: float
    workers: int

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.cpus:g} CPUs{gpus} ({self.workers} worker{'s' if self.workers > 1 else ''})"


def demand_of(spec: ExperimentSpec) -> Demand:
    """One trial's demand: its workers, and for several workers the process that steers them."""
    training = spec.training
    return Demand(
        training.workers * training.cpus_per_worker,
        float(training.workers * training.use_gpu),
        training.workers,
    )


def check_demand(spec: ExperimentSpec, *, autoscaling: bool = False) -> int:
    """Trials that the cluster holds at a time. Raises ResourceError when it holds none.

    `autoscaling` takes the demand on trust, since nodes that do not yet exist may meet it.
    """
    demand = demand_of(spec)
    have = ray.cluster_resources()
    fits = math.floor((have.get("CPU", 0) + 1e-6) / demand.cpus) if demand.cpus else 10**6
    if demand.gpus:
        fits = min(fits, math.floor((have.get("GPU", 0) + 1e-6) / demand.gpus))
    if fits < 1 and not autoscaling:
        raise ResourceError(
            f"One trial asks for {demand}, and the cluster has {have.get('CPU', 0):g} CPUs and "
            f"{have.get('GPU', 0):g} GPUs; lower training.workers or training.cpus_per_worker, set "
            "training.use_gpu: "
            "false, or join a larger cluster (RAY_ADDRESS)"
        )
    if autoscaling:  # as many as the search has at once: the cluster grows by what waits
        return spec.search.concurrent or max(fits, spec.search.trials)
    return max(1, min(fits, spec.search.concurrent or fits))
