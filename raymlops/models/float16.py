"""Converts chosen nodes of an ONNX graph to half precision, with casts at the borders. Does not choose nodes; runs
nothing."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from raymlops.errors import ArtifactError
from raymlops.models.runtime_messages import explain_failure

LARGEST = float(np.finfo(np.float16).max)


def halve(model: onnx.ModelProto, chosen: Sequence[onnx.NodeProto]) -> tuple[onnx.ModelProto, int]:
    """A copy in which the chosen nodes compute in FP16, and the number of weights clipped to its range.

    Raises ArtifactError if a chosen node has a subgraph.
    """
    names = {node.name for node in chosen}
    floats = _find_floats(model)
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    halved: dict[str, str] = {}  # FP32 tensor -> its FP16 name
    nodes: list[onnx.NodeProto] = []
    cut = 0
    for node in graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        _check_node(node)
        for place, name in enumerate(node.input):
            if name not in floats:
                continue
            if name not in halved:
                halved[name] = f"{name}_fp16"
                if name in constants:
                    tensor, over = _to_half(constants[name], halved[name])
                    graph.initializer.append(tensor)
                    cut += over
                else:
                    nodes.append(_cast(name, halved[name], TensorProto.FLOAT16))
            node.input[place] = halved[name]
        made = [name for name in node.output if name in floats]
        node.output[:] = [f"{name}_fp16" if name in floats else name for name in node.output]
        nodes.append(node)
        for name in made:
            halved[name] = f"{name}_fp16"
            nodes.append(_cast(halved[name], name, TensorProto.FLOAT))
    return _assemble(model, graph, nodes), cut


def _assemble(model: onnx.ModelProto, graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Without the redundant casts and the FP32 weights that nothing reads."""
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    kept = [node for node in nodes if not node.name.startswith(_PREFIX) or node.output[0] in read]
    read = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.CopyFrom(graph)
    return made


_PREFIX = "to_precision_of_"


def _cast(name: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [target], name=f"{_PREFIX}{target}", to=kind)


def _check_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs:
            raise ArtifactError(
                f"Node {node.name!r} ({node.op_type}) has a subgraph; fp16 of such models is not supported"
            )
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _find_floats(model: onnx.ModelProto) -> set[str]:
    """Names of the FP32 tensors. Raises ArtifactError if the graph's types cannot be inferred."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, check_type=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ArtifactError(f"The types of the graph cannot be inferred: {explain_failure(error)}") from None
    values = (*graph.input, *graph.output, *graph.value_info)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return floats | {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}


def _to_half(tensor: onnx.TensorProto, name: str) -> tuple[onnx.TensorProto, int]:
    values = numpy_helper.to_array(tensor)
    over = int(np.sum(np.abs(values) > LARGEST))
    return numpy_helper.from_array(np.clip(values, -LARGEST, LARGEST).astype(np.float16), name), over
