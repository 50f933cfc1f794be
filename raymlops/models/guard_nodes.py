"""Inserts nodes around an operator of an ONNX graph to guard it, with names that are unused in the graph."""

from collections.abc import Sequence

import onnx

from raymlops.models.value_flow import bodies_of


class Names:
    """Names of tensors that are unused in a graph and its bodies."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken: set[str] = set()
        self._take(graph)

    def _take(self, graph: onnx.GraphProto) -> None:
        self._taken.update(value.name for value in (*graph.input, *graph.output))
        self._taken.update(tensor.name for tensor in graph.initializer)
        for node in graph.node:
            self._taken.update((*node.input, *node.output))
            for body in bodies_of(node):
                self._take(body)

    def make(self, word: str) -> str:
        name = f"guard_{word}_{len(self._taken)}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


class Maker:
    """Nodes with one output each, in order."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.nodes: list[onnx.NodeProto] = []

    def __call__(self, operator: str, *inputs: str, **attributes: object) -> str:
        output = self._names.make(operator.lower())
        self.nodes.append(onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value: float, dtype: int) -> str:
        return self("Constant", value=onnx.helper.make_tensor("value", dtype, [], [value]))

    def constants(self, values: Sequence[float], dtype: int) -> str:
        return self("Constant", value=onnx.helper.make_tensor("value", dtype, [len(values)], values))


def replace_nodes(graph: onnx.GraphProto, nodes: dict[int, list[onnx.NodeProto]], number: int) -> int:
    """Replace the nodes with these numbers, which count like `Visit.number`; returns the next number."""
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        own = number
        number += 1
        for body in bodies_of(node):
            number = replace_nodes(body, nodes, number)
        placed = nodes.get(own, [node])
        for other in placed:
            if other is not node:
                _take_bodies(other, node)
        kept.extend(placed)
    del graph.node[:]
    graph.node.extend(kept)
    return number


def _take_bodies(node: onnx.NodeProto, old: onnx.NodeProto) -> None:
    """Give the replacement of a node its bodies, in which nodes were replaced."""
    bodies = {attribute.name: attribute for attribute in old.attribute if attribute.HasField("g")}
    for attribute in node.attribute:
        if attribute.HasField("g") and attribute.name in bodies:
            attribute.g.CopyFrom(bodies[attribute.name].g)
