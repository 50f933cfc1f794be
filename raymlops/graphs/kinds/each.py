"""A node that runs once for all elements of a ragged tensor."""

from collections.abc import Sequence

import numpy as np

from raymlops.errors import SpecError
from raymlops.graphs.execution import Request
from raymlops.graphs.node_kind import Built, NodeKind, Parts, Resolved, Scope
from raymlops.graphs.plan import Port
from raymlops.graphs.port_types import join_answers
from raymlops.graphs.ragged_arrays import flatten_elements, group_elements
from raymlops.specs.graph_nodes import EachNode
from raymlops.tensors import Array, Batch, TensorSpec


class Each(NodeKind[EachNode]):
    spec = EachNode
    is_over_elements = True

    def reads(self, node: EachNode) -> Sequence[str]:
        return [node.over]

    def calls(self, node: EachNode) -> Sequence[str]:
        return [node.run]

    def resolve(self, node: EachNode, scope: Scope) -> Resolved:
        reference, port = scope.read(node.over, whole=True)
        outputs = join_answers({node.run: scope.answers(node.run)})
        if not port.ragged:
            raise SpecError(f"each runs over a ragged tensor, but {reference} is {port}")
        return Resolved(_make_ragged(outputs), [(reference, port)])

    def explain_dependence(self, node: EachNode) -> str:
        return "runs over elements"

    def build(self, parts: Parts) -> Built:
        """Tensors that are not ragged are repeated for the elements of their row."""
        step = parts.step
        over, branch = str(step.reads[0]), parts.branches[step.node.run]
        ports = {str(reference): parts.port(reference) for _, reference in step.needs}
        ragged = {name: port for name, port in ports.items() if port.ragged}

        async def run(batch: Batch, request: Request) -> Batch:
            _, lengths = flatten_elements(batch[over], ragged[over])
            if not lengths.sum():
                return {port.spec.name: _empty(len(lengths), port) for port in step.outputs}
            owner = np.repeat(np.arange(len(lengths)), lengths)
            elements: Batch = {}
            for name, values in batch.items():
                if name not in ragged:
                    elements[name] = values[owner]
                    continue
                elements[name], found = flatten_elements(values, ragged[name])
                if not np.array_equal(found, lengths):
                    raise ValueError(f"{name} has other numbers of elements a row than {over}")
            answer = await branch.call(elements, request)
            return {name: group_elements(values, lengths) for name, values in answer.items()}

        return Built(run)

    def describe(self, node: EachNode) -> str:
        return f"over {node.over}"

    def label_call(self, node: EachNode, called: str) -> str:
        return "each element"


def _make_ragged(ports: Sequence[Port]) -> tuple[Port, ...]:
    for port in ports:
        if port.ragged:
            raise SpecError(f"the node that it runs answers {port}; each cannot nest ragged tensors")
    return tuple(
        Port(TensorSpec(port.spec.name, port.spec.datatype, (-1, *port.spec.shape[1:])), ragged=True)
        for port in ports
    )


def _empty(rows: int, port: Port) -> Array:
    flat = np.empty((0, *(max(size, 0) for size in port.spec.shape[1:])), port.spec.dtype)
    return group_elements(flat, np.zeros(rows, dtype=np.int64))
