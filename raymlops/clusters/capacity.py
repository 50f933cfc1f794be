"""Checks whether node types can ever meet a demand for workers, before anything is started or uploaded."""

import dataclasses
from collections.abc import Mapping, Sequence

from raymlops.clusters import configuration
from raymlops.clusters.configuration import Config
from raymlops.specs import labels
from raymlops.specs.training import WorkerDemand


@dataclasses.dataclass(frozen=True)
class NodeKind:
    """A group of identical nodes: the resources of one of them, and the maximum number of nodes."""

    name: str
    resources: Mapping[str, float]
    max_nodes: int
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    address: str = ""
    """IP address; empty for a node type that has no live node."""


def kinds_of(config: Config) -> list[NodeKind]:
    """The worker node types of cluster.yaml; each is also bounded by the total `max_workers`."""
    total = int(config.get("max_workers", 2))
    return [
        NodeKind(
            name,
            kind.get("resources", {}),
            min(total, kind.get("max_workers", total)),
            kind.get("labels", {}),
        )
        for name, kind in configuration.worker_types(config).items()
    ]


def explain_shortage(demand: WorkerDemand, kinds: Sequence[NodeKind]) -> str | None:
    """One sentence that says why the demand can never be met; None when it can."""
    asked = _show(demand.resources)
    fitting = [kind for kind in kinds if count_workers(demand, kind)]
    if not fitting:
        wanted = f" with labels {dict(demand.labels)}" if demand.labels else ""
        known = (
            "; ".join(
                f"{kind.name}: {_show(kind.resources)}"
                + (f", labelled {dict(kind.labels)}" if wanted else "")
                for kind in kinds
            )
            or "none"
        )
        return f"one worker asks for {asked}{wanted}, and no node has that much ({known})"
    room = sum(count_workers(demand, kind) * kind.max_nodes for kind in fitting)
    if room < demand.workers:
        return (
            f"{demand.workers} workers of {asked} are asked for, and at most {room} fit on all possible nodes ("
            + "; ".join(f"{kind.name}: {kind.max_nodes} nodes" for kind in fitting)
            + ")"
        )
    return None


def count_workers(demand: WorkerDemand, kind: NodeKind) -> int:
    """The number of workers that fit on one node of this kind."""
    # Ray sets labels (ray.io/...) on live nodes only, so they cannot be checked for a node type.
    lives = any(label.startswith("ray.io/") for label in kind.labels)
    asked = {
        label: wanted for label, wanted in demand.labels.items() if lives or not label.startswith("ray.io/")
    }
    if not labels.match(asked, kind.labels):
        return 0
    return demand.count_places(kind.resources)


def _show(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g} {key}" for key, value in resources.items() if value) or "nothing"
