"""Checks that the cluster can run a search before anything starts: a clear error instead of waiting forever."""

import ray

from raymlops.errors import ResourceError
from raymlops.specs import labels
from raymlops.specs.experiment import ExperimentSpec


def check_demand(spec: ExperimentSpec, *, autoscaling: bool = False) -> int:
    """Number of trials that the cluster can run at a time. Raises ResourceError if it is none.

    With `autoscaling` the demand is not checked, since nodes that do not exist yet may meet it.
    """
    training = spec.training
    nodes = [
        node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and labels.match(training.labels, node["Labels"])
    ]
    places = sum(training.demand.count_places(have) for have in nodes)
    fits = places // training.workers
    if places < training.fewest_workers and not autoscaling:
        have = {name: sum(resources.get(name, 0) for resources in nodes) for name in ("CPU", "GPU")}
        raise ResourceError(
            f"One trial asks for {training.demand}, and the nodes that it may run on have {have['CPU']:g} CPUs and "
            f"{have['GPU']:g} GPUs, room for {places} such workers; lower training.workers or "
            "training.cpus_per_worker, set training.use_gpu: false, ask for other training.labels, or join a larger "
            "cluster (RAY_ADDRESS)"
        )
    if autoscaling:  # as many as the search runs at once: the cluster grows by what waits
        return spec.search.concurrent or max(fits, spec.search.budget)
    return max(1, min(fits, spec.search.concurrent or fits))
