"""What a search asks of the cluster, checked before anything starts: a clear error instead of a hang."""

import dataclasses
import math
from collections.abc import Mapping

import ray

from raymlops.errors import ResourceError
from raymlops.specs import labels
from raymlops.specs.experiment import ExperimentSpec


@dataclasses.dataclass(frozen=True)
class Demand:
    """Resources of one trial."""

    cpus: float
    gpus: float
    workers: int
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        on = f" on nodes labelled {dict(self.labels)}" if self.labels else ""
        return f"{self.cpus:g} CPUs{gpus} ({self.workers} worker{'s' if self.workers > 1 else ''}){on}"


def demand_of(spec: ExperimentSpec) -> Demand:
    """The least that one trial can do with."""
    training = spec.training
    workers = training.fewest_workers
    return Demand(workers * training.cpus_per_worker, workers * training.gpus, workers, training.labels)


def check_demand(spec: ExperimentSpec, *, autoscaling: bool = False) -> int:
    """Trials that the cluster holds at a time. Raises ResourceError when it holds none.

    `autoscaling` takes the demand on trust, since nodes that do not yet exist may meet it.
    """
    training = spec.training
    asked = {"CPU": training.cpus_per_worker, "GPU": training.gpus}
    nodes = [
        node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and labels.match(training.labels, node["Labels"])
    ]
    places = sum(_places_on(have, asked) for have in nodes)
    fits = places // training.workers
    if places < training.fewest_workers and not autoscaling:
        have = {name: sum(resources.get(name, 0) for resources in nodes) for name in asked}
        raise ResourceError(
            f"One trial asks for {demand_of(spec)}, and the nodes that it may run on have {have['CPU']:g} CPUs and "
            f"{have['GPU']:g} GPUs, room for {places} such workers; lower training.workers or "
            "training.cpus_per_worker, set training.use_gpu: false, ask for other training.labels, or join a larger "
            "cluster (RAY_ADDRESS)"
        )
    if autoscaling:  # as many as the search has at once: the cluster grows by what waits
        return spec.search.concurrent or max(fits, spec.search.trials)
    return max(1, min(fits, spec.search.concurrent or fits))


def _places_on(have: Mapping[str, float], asked: Mapping[str, float]) -> int:
    return min(
        math.floor((have.get(name, 0) + 1e-6) / amount) for name, amount in asked.items() if amount > 0
    )
