"""The references of a graph by name: who reads whom, who calls whom, in which order. Does not know tensor types."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from raymlops.errors import unknown_name
from raymlops.graphs.kinds import KINDS
from raymlops.graphs.node_kind import NodeKind
from raymlops.graphs.own_kinds import failures_named, load_kind, read_options
from raymlops.graphs.plan import read_reference
from raymlops.specs.graph import GraphSpec
from raymlops.specs.graph_nodes import INPUTS, NodeDocument, list_references


@dataclasses.dataclass(frozen=True)
class Declared:
    """A node of a spec with its references to other nodes."""

    node: Any
    kind: NodeKind[Any]
    reads: tuple[str, ...]
    """References that it reads itself."""
    calls: tuple[str, ...]
    """Nodes that run only when this one calls them, each once; its fallback is the last."""


Nodes = Mapping[str, Declared]


def declare(spec: GraphSpec, prefix: str = "") -> dict[str, Declared]:
    """The nodes of a graph; `prefix` is the path of the graph itself. Imports kinds written by users.

    Raises SpecError.
    """
    return {name: _declare(prefix + name, node) for name, node in spec.nodes.items()}


def _declare(path: str, node: NodeDocument) -> Declared:
    kind = KINDS.get(node.kind) or load_kind(path, node)
    document = node if node.kind in KINDS else read_options(path, node, kind)
    with failures_named(path, node):
        reads, calls = tuple(map(str, kind.reads(document))), list(map(str, kind.calls(document)))
    if isinstance(node.fallback, str):
        calls.append(node.fallback)
    return Declared(document, kind, reads, tuple(dict.fromkeys(calls)))


def find_owners(nodes: Nodes) -> dict[str, str]:
    """Called node -> node that calls it."""
    return {called: name for name, node in nodes.items() for called in node.calls}


def find_elements(nodes: Nodes) -> set[str]:
    """Nodes that run on elements of ragged tensors: those that an `each` calls, and those that they call."""
    waiting = [
        called
        for node in nodes.values()
        if node.kind.is_over_elements
        for called in node.kind.calls(node.node)
    ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += [called for called in nodes[name].calls if called not in found]
    return found


def check_names(spec: GraphSpec, nodes: Nodes) -> list[str]:
    """Mistakes in references: unknown, called twice, read from outside, unused, in a cycle."""
    outputs = list_references(spec.outputs)
    mistakes = [*_unknown(nodes, outputs), *_wrongly_owned(nodes, outputs)]
    if not mistakes:
        mistakes = [*_circles(nodes)] or [*_unread(nodes, outputs)]
    return mistakes


def _unknown(nodes: Nodes, outputs: list[str]) -> Iterator[str]:
    known = [*nodes, INPUTS]
    for name, node in nodes.items():
        for text in node.reads:
            if read_reference(text).node not in known:
                yield unknown_name(
                    f"node in {text!r}, which {name!r} reads:", read_reference(text).node, known
                )
        for called in node.calls:
            if called not in nodes:
                yield unknown_name(f"node that {name!r} calls:", called, nodes)
    for text in outputs:
        if read_reference(text).node not in nodes:
            yield unknown_name(f"node in output {text!r}:", read_reference(text).node, nodes)


def _wrongly_owned(nodes: Nodes, outputs: list[str]) -> Iterator[str]:
    owners: dict[str, str] = {}
    for name, node in nodes.items():
        for called in node.calls:
            if owners.setdefault(called, name) != name:
                yield (
                    f"Node {called!r} is called by both {owners[called]!r} and {name!r}; "
                    "declare it once for each"
                )
    readers = [(f"node {name!r}", text) for name, node in nodes.items() for text in node.reads]
    for reader, text in [*readers, *(("the graph's outputs", text) for text in outputs)]:
        read = read_reference(text).node
        if read in owners:
            yield (
                f"{reader[0].upper()}{reader[1:]} cannot read {text!r}: {read!r} runs only inside "
                f"{owners[read]!r}; read {owners[read]!r} instead"
            )


def _edges(nodes: Nodes) -> dict[str, list[str]]:
    return {
        name: [read_reference(text).node for text in node.reads] + list(node.calls)
        for name, node in nodes.items()
    }


def _circles(nodes: Nodes) -> Iterator[str]:
    circle = _find_circle(_edges(nodes))
    if circle:
        yield (
            f"Nodes wait for each other in a cycle: {' -> '.join(circle)}; let one of them read something else"
        )


def _find_circle(edges: Mapping[str, list[str]]) -> list[str]:
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        stack = [(start, iter(edges[start]))] if start not in done else []
        while stack:
            name, following = stack[-1]
            if len(path) < len(stack):
                path.append(name)
            step = next((other for other in following if other not in done and other in edges), None)
            if step is None:
                done.add(name)
                stack.pop()
                path.pop()
            elif step in path:
                return [*path[path.index(step) :], step]
            else:
                stack.append((step, iter(edges[step])))
    return []


def _unread(nodes: Nodes, outputs: list[str]) -> Iterator[str]:
    owners = find_owners(nodes)
    edges = _edges(nodes)
    reached = {read_reference(text).node for text in outputs}
    waiting = list(reached)
    while waiting:
        new = set(edges[waiting.pop()]) & edges.keys() - reached
        reached |= new
        waiting += new
    for name in nodes:
        if name not in reached and name not in owners:
            yield f"Nothing reads node {name!r}; read it in another node or in outputs, or remove it"


def sort_nodes(nodes: Nodes) -> list[str]:
    """Names in an order in which each follows all that it reads and calls; otherwise the file's order is kept."""
    edges = _edges(nodes)
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in order or name not in edges:
            return
        for other in edges[name]:
            visit(other)
        order[name] = None

    for name in nodes:
        visit(name)
    return list(order)
