"""A Python class with `run(batch)`, which declares its outputs."""

from collections.abc import Sequence

from raymlops.graphs.node_kind import Built, NodeKind, Parts, Resolved, Scope
from raymlops.graphs.port_types import declare_port
from raymlops.specs.graph_nodes import PythonNode, list_references


class Python(NodeKind[PythonNode]):
    spec = PythonNode
    is_leaf = True
    rows_independent = True

    def reads(self, node: PythonNode) -> Sequence[str]:
        return list_references(node.inputs)

    def resolve(self, node: PythonNode, scope: Scope) -> Resolved:
        wanted = None if node.takes is None else [declare_port(tensor) for tensor in node.takes]
        needs = scope.bind(node.inputs, wanted)
        return Resolved(tuple(declare_port(tensor) for tensor in node.outputs), needs=needs)

    def build(self, parts: Parts) -> Built:
        assert parts.implementation is not None
        call = parts.implementation.run
        return Built(lambda batch, request: call(batch))

    def describe(self, node: PythonNode) -> str:
        return node.target
