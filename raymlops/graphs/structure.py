"""The names of a graph: who reads whom, who calls whom, in which order. Knows no tensor's type."""

from collections.abc import Iterator, Mapping

from raymlops.errors import unknown_name
from raymlops.graphs.plan import read_reference
from raymlops.specs.graph import AnyNode, GraphNode, GraphSpec
from raymlops.specs.graph_nodes import (
    INPUTS,
    Bindings,
    CascadeNode,
    EachNode,
    MeanNode,
    ModelNode,
    PythonNode,
    ShadowNode,
    SplitNode,
    StackNode,
    SwitchNode,
    VoteNode,
    WeightedNode,
    parse_condition,
)


def list_reads(node: AnyNode) -> list[str]:
    """References that a node reads itself."""
    match node:
        case ModelNode() | PythonNode() | GraphNode():
            return list_bound(node.inputs)
        case MeanNode() | VoteNode() | StackNode() | WeightedNode():
            return list(node.of)
        case SwitchNode():
            return [parse_condition(case.when)[0] for case in node.cases]
        case SplitNode():
            return [node.by] if node.by else []
        case EachNode():
            return [node.over]
    return []


def list_calls(node: AnyNode) -> list[str]:
    """Nodes that run only when this one calls them, each once."""
    called: list[str] = []
    match node:
        case SwitchNode():
            called = [case.then for case in node.cases] + [node.otherwise]
        case CascadeNode():
            called = list(node.steps)
        case SplitNode():
            called = list(node.weights)
        case ShadowNode():
            called = [node.primary, node.mirror]
        case EachNode():
            called = [node.run]
    if isinstance(node.fallback, str):
        called.append(node.fallback)
    return list(dict.fromkeys(called))


def list_bound(bindings: Bindings) -> list[str]:
    return list(bindings.values()) if isinstance(bindings, dict) else list(bindings)


def find_owners(spec: GraphSpec) -> dict[str, str]:
    """Node that is called -> node that calls it."""
    return {called: name for name, node in spec.nodes.items() for called in list_calls(node)}


def check_names(spec: GraphSpec) -> list[str]:
    """Mistakes in names: unknown, called twice, read from outside, read by nothing, in a circle."""
    mistakes = [*_unknown(spec), *_wrongly_owned(spec)]
    if not mistakes:
        mistakes = [*_circles(spec)] or [*_unread(spec)]
    return mistakes


def _output_references(spec: GraphSpec) -> list[str]:
    return list_bound(spec.outputs)


def _unknown(spec: GraphSpec) -> Iterator[str]:
    known = [*spec.nodes, INPUTS]
    for name, node in spec.nodes.items():
        for text in list_reads(node):
            if read_reference(text).node not in known:
                yield unknown_name(
                    f"node in {text!r}, which {name!r} reads:", read_reference(text).node, known
                )
        for called in list_calls(node):
            if called not in spec.nodes:
                yield unknown_name(f"node that {name!r} calls:", called, spec.nodes)
    for text in _output_references(spec):
        if read_reference(text).node not in spec.nodes:
            yield unknown_name(f"node in output {text!r}:", read_reference(text).node, spec.nodes)


def _wrongly_owned(spec: GraphSpec) -> Iterator[str]:
    owners: dict[str, str] = {}
    for name, node in spec.nodes.items():
        for called in list_calls(node):
            if owners.setdefault(called, name) != name:
                yield (
                    f"Node {called!r} is called by both {owners[called]!r} and {name!r}; "
                    "declare it once for each"
                )
    readers = [(f"node {name!r}", text) for name, node in spec.nodes.items() for text in list_reads(node)]
    for reader, text in [*readers, *(("the graph's outputs", text) for text in _output_references(spec))]:
        read = read_reference(text).node
        if read in owners:
            yield (
                f"{reader[0].upper()}{reader[1:]} cannot read {text!r}: {read!r} runs only inside "
                f"{owners[read]!r}; read {owners[read]!r} instead"
            )


def _edges(spec: GraphSpec) -> dict[str, list[str]]:
    return {
        name: [read_reference(text).node for text in list_reads(node)] + list_calls(node)
        for name, node in spec.nodes.items()
    }


def _circles(spec: GraphSpec) -> Iterator[str]:
    circle = _find_circle(_edges(spec))
    if circle:
        yield (
            f"Nodes wait for each other in a circle: {' -> '.join(circle)}; let one "
            "of them read something else"
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


def _unread(spec: GraphSpec) -> Iterator[str]:
    owners = find_owners(spec)
    edges = _edges(spec)
    reached = {read_reference(text).node for text in _output_references(spec)}
    waiting = list(reached)
    while waiting:
        new = set(edges[waiting.pop()]) & edges.keys() - reached
        reached |= new
        waiting += new
    for name in spec.nodes:
        if name not in reached and name not in owners:
            yield f"Node {name!r} is read by nothing; read it in another node or in outputs, or remove it"


def sort_nodes(spec: GraphSpec) -> list[str]:
    """Names so that each follows all that it reads and calls; nodes of the file's order stay in it where
    they can."""
    edges = _edges(spec)
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in order or name not in edges:
            return
        for other in edges[name]:
            visit(other)
        order[name] = None

    for name in spec.nodes:
        visit(name)
    return list(order)
