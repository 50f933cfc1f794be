"""A graph as a node of another one."""

from collections.abc import Sequence

from raymlops.graphs.node_kind import Built, NodeKind, Parts, Resolved, Scope
from raymlops.specs.graph_nodes import GraphNode, list_references


class InnerGraph(NodeKind[GraphNode]):
    spec = GraphNode
    rows_independent = True

    def reads(self, node: GraphNode) -> Sequence[str]:
        return list_references(node.inputs)

    def resolve(self, node: GraphNode, scope: Scope) -> Resolved:
        assert node.graph is not None, "inner graph files are read by read_graph"
        inner = scope.validate(node.graph)
        needs = scope.bind(node.inputs, list(inner.inputs))
        return Resolved(inner.output_ports, needs=needs, inner=inner)

    def build(self, parts: Parts) -> Built:
        assert parts.inner is not None
        return Built(parts.inner)
