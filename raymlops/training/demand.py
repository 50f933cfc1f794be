"""Checks that the cluster can run a search before anything starts: a clear error instead of waiting forever."""

import math
from collections.abc import Sequence

import ray

from raymlops.errors import ResourceError
from raymlops.features import Packing
from raymlops.specs import labels
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import learners
from raymlops.training.candidates import list_names

_SHARE = 0.5
"""Of the memory of a node, for the rows of a worker: the rest is for reading them, for validation and for libraries."""
_ALWAYS = 2**28
"""Bytes that any node has."""


def check_demand(spec: ExperimentSpec, *, autoscaling: bool = False) -> int:
    """Number of trials that the cluster can run at a time. Raises ResourceError if it is none.

    With `autoscaling` the demand is not checked, since nodes that do not exist yet may meet it.
    """
    training, nodes = spec.training, _list_nodes(spec)
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


def _list_nodes(spec: ExperimentSpec) -> list[dict[str, float]]:
    """The resources of the nodes that trials may run on."""
    return [
        node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and labels.match(spec.training.labels, node["Labels"])
    ]


def count_workers(spec: ExperimentSpec, packing: Packing, rows: int, outputs: int) -> tuple[int, str]:
    """Workers that together hold what the learners of a spec hold of so many training rows, and the reason."""
    found = [learners.find_learner(name) for name in list_names(spec)]
    size = max(learners.count_bytes(learner, packing, rows, outputs) for learner in found)
    if size <= _ALWAYS:
        return 1, ""
    able = [have.get("memory", 0) for have in _list_nodes(spec) if spec.training.demand.count_places(have)]
    why = f"{rows:,} rows take {size / 2**30:.1f} GiB, and half the memory of each node is theirs"
    return share_out(size, able), why


def share_out(size: int, memory: Sequence[float]) -> int:
    """Workers among which so many bytes are shared out, each on a node of its own with half its memory to use."""
    room = min((one for one in memory if one), default=0) * _SHARE
    return min(len(memory), math.ceil(size / room)) if room else 1


def count_places(spec: ExperimentSpec) -> int:
    """Trainings of one worker that run at a time on the whole cluster."""
    cpus = ray.cluster_resources().get("CPU", 1.0)
    return max(1, int(cpus // spec.training.cpus_per_worker))


def find_free_bytes(spec: ExperimentSpec, concurrent: int) -> int | None:
    """The memory of one trial on the node that has least for each, of those that `concurrent` trials at a time may run
    on; None if Ray does not know."""
    training, found = spec.training, []
    for node in ray.nodes():
        have = node["Resources"]
        places = min(concurrent, training.demand.count_places(have))
        if node["Alive"] and places and "memory" in have and labels.match(training.labels, node["Labels"]):
            found.append(int(have["memory"] / places))
    return min(found, default=None)
