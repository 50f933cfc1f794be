"""Which versions of a serving spec are monitored: those of the registry that have a reference. Puts the references
where the counts will be, so that replicas and judges need no registry. Counts nothing."""

import logging
import pathlib
import shlex
from collections.abc import Iterator

from raymlops import locations
from raymlops.errors import ArtifactError, SpecError, StorageError, unknown_name
from raymlops.graphs.validation import list_leaves
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.tick_store import TickStore, find_root
from raymlops.runtime.leaf_kinds import LEAF_KINDS
from raymlops.settings import Settings
from raymlops.specs.graph import GraphSpec, list_nodes
from raymlops.specs.graph_nodes import ShadowNode, SplitNode
from raymlops.specs.monitoring import Monitoring, WatchedVersion
from raymlops.specs.serving import ServingSpec

LOG = logging.getLogger("raymlops.serving")
REGISTERED = "models:/"


def pin_monitoring(spec: ServingSpec, settings: Settings) -> Monitoring | None:
    """The settings with the folder for all replicas, and the versions of a pinned spec that have a reference. If the
    folder cannot be written, nothing is monitored, and a warning says so: what is served must not depend on it.

    Raises SpecError for segments that no version has, UntrustedError for a reference that was changed.
    """
    if spec.monitoring is None:
        return None
    path = spec.monitoring.path or find_root(settings.storage_path)
    if not locations.is_remote(path):
        path = str(pathlib.Path(path).expanduser().absolute())
    store = TickStore(path, spec.name)
    watched: dict[str, WatchedVersion] = {}
    references: dict[str, Reference] = {}
    try:
        for place, role, uri in list_registered(spec):
            found = _find_reference(place, uri, settings)
            if found is not None:
                content, reference = found
                digest = store.write_reference(content)
                name, _, version = uri.removeprefix(REGISTERED).rpartition("/")
                watched[place] = WatchedVersion(role=role, model=name, version=version, reference=digest)
                references[digest] = reference
        _check_segments(spec.monitoring, list(references.values()))
        pinned = spec.monitoring.model_copy(update={"path": path, "watched": watched})
        if watched:
            store.write_settings(pinned.model_dump(mode="json"))
    except StorageError as error:
        LOG.warning("%s is not monitored: %s", spec.name, error)
        return spec.monitoring.model_copy(update={"path": path, "watched": {}})
    return pinned


def _find_reference(place: str, uri: str, settings: Settings) -> tuple[bytes, Reference] | None:
    """None if there is none that can be read; a log line says so."""
    content = _read_reference(uri, settings)
    if content is None:
        told = f"it has no reference; make one: raymlops reference {shlex.quote(uri)} DATA"
        LOG.info("%s (%s) is not monitored: %s", place, uri, told)
        return None
    try:
        return content, Reference.from_bytes(content)
    except ArtifactError as error:  # of another release
        LOG.warning("%s (%s) is not monitored: %s", place, uri, error)
        return None


def _read_reference(uri: str, settings: Settings) -> bytes | None:
    from raymlops.tracking import evidence, registry  # MLflow is loaded only if the registry is used
    from raymlops.tracking.store import connect

    return evidence.read_reference(connect(settings), registry.resolve(uri, settings))


def list_registered(spec: ServingSpec) -> Iterator[tuple[str, str, str]]:
    """Path, role and URI of each version of the registry: `flights`, or `graph/node`."""
    for name, model in spec.models.items():
        if model.source.startswith(REGISTERED):
            yield name, "endpoint", model.source
    for name, graph in spec.graphs.items():
        roles = find_roles(graph)
        for path, node in list_leaves(graph):
            leaf = LEAF_KINDS.get(node.kind)
            held = leaf.model_of(node) if leaf else None
            if held is not None and held.source.startswith(REGISTERED):
                yield f"{name}/{path}", roles.get(path, "node"), held.source


def find_roles(graph: GraphSpec) -> dict[str, str]:
    """Of leaves by path: `shadow` for those that only a mirror calls, `canary` for those of a split's branch that has
    not the largest share."""
    beside: dict[str, str] = {}
    for path, node in list_nodes(graph):
        prefix = path.rpartition("/")[0]
        if isinstance(node, ShadowNode):
            beside[_below(prefix, node.mirror)] = "shadow"
        elif isinstance(node, SplitNode):
            most = max(node.weights, key=node.weights.__getitem__)
            beside |= {_below(prefix, branch): "canary" for branch in node.weights if branch != most}
    roles = {}
    for path, _ in list_leaves(graph):
        for called, role in beside.items():
            if path == called or path.startswith(f"{called}/"):
                roles[path] = role
    return roles


def _below(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _check_segments(spec: Monitoring, references: list[Reference]) -> None:
    known = dict.fromkeys(
        column.name for reference in references for column in reference.columns if column.role == "input"
    )
    for column in spec.segments:
        if references and column not in known:
            raise SpecError(f"monitoring.segments: {unknown_name('column', column, known)}")
