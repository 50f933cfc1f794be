"""Monitoring of a replica, put together: what is counted, the observer that counts, and the collector's actor of the
application that it delivers to."""

import functools
import secrets
from collections.abc import Mapping

from raymlops.graphs.execution import Watch
from raymlops.monitoring.tick_store import TickStore
from raymlops.monitoring.ticks import Place
from raymlops.serving.actors.collector_actor import CollectorActor
from raymlops.serving.actors.tick_collector import Sender
from raymlops.serving.actors.tick_delivery import TickDelivery
from raymlops.serving.endpoints.answered_rows import AnsweredRows, find_folder
from raymlops.serving.endpoints.graph import Prepared
from raymlops.serving.endpoints.tick_observer import TickObserver, TickQueue
from raymlops.specs.serving import ServingSpec


def make_monitoring(
    spec: ServingSpec, prepared: Mapping[str, Prepared], replica: str, node: str
) -> TickQueue | None:
    """The queue of the observer that counts what this replica of a pinned spec answers; None if it has nothing to
    count."""
    monitoring = spec.monitoring
    if monitoring is None or not monitoring.watched:
        return None
    name = f"{replica}-{secrets.token_hex(3)}"
    folder = find_folder(spec.name, monitoring.path)
    places = list_places(spec, prepared)
    rows = AnsweredRows(folder, name, node, places)
    sender = Sender(name, node, str(folder), monitoring.days, monitoring.tick_seconds)
    delivery = TickDelivery(sender, functools.partial(CollectorActor, spec.name, monitoring.path))
    store = TickStore(monitoring.path, spec.name)
    return TickQueue(TickObserver(monitoring, places, rows, delivery, store.read_reference, name))


def list_places(spec: ServingSpec, prepared: Mapping[str, Prepared]) -> dict[str, Place]:
    """All endpoints, and the nodes that are watched, by path."""
    assert spec.monitoring is not None
    watched = spec.monitoring.watched
    places = {
        name: Place(name, "endpoint", name, model.version or "1", "") for name, model in spec.models.items()
    }
    places |= {name: Place(name, "endpoint", name, graph.version, "") for name, graph in prepared.items()}
    for path, one in watched.items():
        places[path] = Place(path, one.role, one.model, one.version, one.reference)
    return places


def watch_nodes(queue: TickQueue | None, spec: ServingSpec, graph: str, copies: bool) -> dict[str, Watch]:
    """For the nodes of a graph that are watched, by path; `copies` if other nodes may change their tensors."""
    if queue is None or spec.monitoring is None:
        return {}
    paths = [path for path in spec.monitoring.watched if path.startswith(f"{graph}/")]
    return {path.removeprefix(f"{graph}/"): queue.watch(path, copies=copies) for path in paths}
