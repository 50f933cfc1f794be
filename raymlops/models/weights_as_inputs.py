"""Turns the weights of a model into inputs; the rest, the skeleton, is the same for every model of one structure.
Makes no session.

A session of the skeleton then runs all of them, and opening one more only reads its weights.
"""

import dataclasses
import io

import numpy as np
import onnx

from raymlops.errors import ArtifactError
from raymlops.tensors import DATATYPE_OF_ONNX, Batch

OPERATORS = frozenset(("Add", "Div", "Gather", "Gemm", "MatMul", "Mul", "Sub"))
"""Operators that run as fast with an input as with a constant. A convolution does not: ONNX Runtime reorders its
constant weights."""
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
"""Integers may be shapes and axes, which must be constants for a graph to be optimised."""


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight that became an input of the skeleton, and the offset of its bytes in the model's file."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    offset: int


@dataclasses.dataclass(frozen=True)
class ExtractedWeights:
    """`skeleton` is an ONNX file; with the `weights` as inputs it computes the same as the original model."""

    skeleton: bytes
    weights: tuple[Weight, ...]


def extract_weights(data: bytes) -> ExtractedWeights:
    """Turn all possible weights in the bytes of an ONNX file into inputs; the others stay in the skeleton."""
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    kept = _list_kept(graph)
    weights: list[Weight] = []
    staying: list[onnx.TensorProto] = []
    position = 0
    for tensor in graph.initializer:
        # A scalar is a constant of a formula, by which ONNX Runtime recognises the formula.
        if tensor.name in kept or tensor.data_type not in FLOATS or not tensor.dims or not tensor.raw_data:
            staying.append(tensor)
            continue
        raw = tensor.raw_data
        offset = data.find(raw, position)
        offset = data.find(raw) if offset < 0 else offset  # equal bytes are equal weights, wherever they are
        position = offset + len(raw)
        shape = tuple(tensor.dims)
        weights.append(Weight(tensor.name, DATATYPE_OF_ONNX[tensor.data_type].numpy, shape, offset))
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    del graph.initializer[:]
    graph.initializer.extend(staying)
    _forget_origin(model)
    return ExtractedWeights(model.SerializeToString(deterministic=True), tuple(weights))


def read_weights(file: io.RawIOBase | io.BytesIO, weights: tuple[Weight, ...]) -> Batch:
    """The tensors by name, from the model's own file. Raises ArtifactError if it is truncated."""
    batch: Batch = {}
    for weight in weights:
        array = batch[weight.name] = np.empty(weight.shape, weight.dtype)
        file.seek(weight.offset)
        if file.readinto(array.data) != array.nbytes:
            raise ArtifactError(f"Weight {weight.name!r} is truncated: the file ends before it does")
    return batch


def _list_kept(graph: onnx.GraphProto) -> set[str]:
    """Names of weights that must stay: graph inputs or outputs, or constants that an operator needs."""
    kept = {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            return {tensor.name for tensor in graph.initializer}  # the bodies of loops read outer tensors
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            kept.update(node.input)
    return kept


def _forget_origin(model: onnx.ModelProto) -> None:
    """Drop what differs between models of one structure but does not affect the result."""
    for field in ("producer_name", "producer_version", "doc_string", "model_version", "metadata_props"):
        model.ClearField(field)
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        for field in ("doc_string", "metadata_props"):
            part.ClearField(field)
    graph.name = "skeleton"
