"""An ONNX model."""

from collections.abc import Sequence

from raymlops.errors import SpecError, unknown_name
from raymlops.graphs.execution import Request
from raymlops.graphs.node_kind import Built, NodeKind, Parts, Resolved, Scope
from raymlops.graphs.plan import Port
from raymlops.graphs.ragged_arrays import group_elements
from raymlops.specs.graph_nodes import ModelNode, list_references
from raymlops.tensors import Batch, Signature, TensorSpec


class Model(NodeKind[ModelNode]):
    spec = ModelNode
    is_leaf = True
    rows_independent = True

    def reads(self, node: ModelNode) -> Sequence[str]:
        return list_references(node.inputs)

    def resolve(self, node: ModelNode, scope: Scope) -> Resolved:
        needs = scope.bind(node.inputs, [Port(spec) for spec in scope.signature.inputs])
        return Resolved(_to_ports(node, scope.signature), needs=needs)

    def is_mergeable(self, node: ModelNode) -> bool:
        return not node.ragged and not node.isolate

    def build(self, parts: Parts) -> Built:
        assert parts.implementation is not None
        call, watch, ragged = parts.implementation.run, parts.implementation.watch, parts.step.node.ragged
        if watch is None and not ragged:
            return Built(lambda batch, request: call(batch))

        async def run(batch: Batch, request: Request) -> Batch:
            answer = await call(batch)
            if watch is not None and request.counted:
                watch(batch, answer)
            if ragged:
                answer = dict(answer)
            for values, lengths in ragged.items():
                answer[values] = group_elements(answer[values], answer[lengths])
            return answer

        return Built(run)

    def describe(self, node: ModelNode) -> str:
        return node.model


def _to_ports(node: ModelNode, signature: Signature) -> tuple[Port, ...]:
    names = {spec.name: spec for spec in signature.outputs}
    for values, counts in node.ragged.items():
        for name in (values, counts):
            if name not in names:
                raise SpecError(unknown_name("output under ragged:", name, names))
        if not names[counts].datatype.startswith(("INT", "UINT")) or len(names[counts].shape) != 1:
            raise SpecError(f"ragged: {names[counts]} cannot count elements; expected one whole number a row")
    return tuple(
        Port(TensorSpec(spec.name, spec.datatype, (-1, *spec.shape[1:])), True)
        if spec.name in node.ragged
        else Port(spec)
        for spec in signature.outputs
    )
