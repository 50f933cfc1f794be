"""Rules for operators that work element by element, or along axes of each row: arithmetic, sums, normalisation,
quantisation."""

import dataclasses
from collections.abc import Sequence

from raymlops.models.row_independence.abstract_values import (
    CoupledError,
    Node,
    Outputs,
    Value,
    broadcast,
    keep_axis,
    normalise,
    only_rows,
    per_row,
    require_below,
    require_single,
    rows_on,
    same_shape,
)
from raymlops.models.row_independence.symbolic_dims import multiply, same


def elementwise(node: Node) -> Outputs:
    values = [node.tensor(place) for place in range(len(node)) if node.has(place)]
    dims, axis, each = broadcast(values)
    return [rows_on(dims, axis, each)] if axis is not None else [Value(dims)]


def unary(node: Node) -> Outputs:
    """Element by element over the first input; its other inputs are the same for all rows."""
    value = node.tensor(0)
    for place in range(1, len(node)):
        extra = node.constant(place)
        if extra is not None and (extra.dims is None or not same(multiply(extra.dims), 1)):
            raise CoupledError(f"its input {place} is no single value")
    if value.axis is None:
        raise CoupledError("an input differs between rows")
    return [rows_on(value.shape, value.axis, per_row(value))]


def prelu(node: Node) -> Outputs:
    value, slope = only_rows(node), node.tensor(1)
    if slope.rank > value.rank:
        raise CoupledError("its slope has a higher rank than its input")
    return elementwise(node)


def cast_like(node: Node) -> Outputs:
    return unary(dataclasses.replace(node, inputs=node.inputs[:1]))


def dropout(node: Node) -> Outputs:
    training = node.has(2)
    if training and any(node.numbers(2)):
        raise CoupledError("it is random in training mode")
    value = node.tensor(0)
    assert value.axis is not None
    return [rows_on(value.shape, value.axis, per_row(value))] * 2


def reduce(node: Node) -> Outputs:
    value = node.tensor(0)
    if value.axis is None:
        raise CoupledError("its axes differ between rows")
    axes = list(node.attribute("axes") or ()) if not node.has(1) else node.numbers(1)
    if not axes:
        if node.attribute("noop_with_empty_axes", 0):
            return [rows_on(value.shape, value.axis, per_row(value))]
        raise CoupledError("it takes all rows together")
    return [_without(node, value, [int(axis) for axis in axes])]


_WHOLE_NUMBERS = (2, 3, 4, 5, 6, 7, 9, 12, 13)
"""Of onnx.TensorProto.DataType: integers and booleans."""


def extreme(node: Node) -> Outputs:
    """For floats, whether ONNX Runtime 1.31 detects NaN depends on the memory alignment of a row."""
    outputs = reduce(node) if node.operator != "Hardmax" else softmax(node)
    if node.tensor(0).datatype not in _WHOLE_NUMBERS:
        raise CoupledError("whether it sees NaN depends on the place in the batch")
    return outputs


def arg_reduce(node: Node) -> Outputs:
    return [_without(node, only_rows(node), [int(node.attribute("axis", 0))])]


def _without(node: Node, value: Value, axes: Sequence[int]) -> Value:
    assert value.axis is not None
    reduced = {normalise(axis, value.rank) for axis in axes}
    if value.axis in reduced:
        raise CoupledError("it takes all rows together")
    if node.attribute("keepdims", 1):
        dims = [1 if place in reduced else size for place, size in enumerate(value.shape)]
        return rows_on(dims, value.axis, per_row(value))
    dims = [size for place, size in enumerate(value.shape) if place not in reduced]
    return rows_on(dims, value.axis - sum(axis < value.axis for axis in reduced), per_row(value))


def softmax(node: Node) -> Outputs:
    value = only_rows(node)
    assert value.axis is not None
    axis = node.axis(value.rank, default=-1 if node.opset >= 13 else 1)
    # Before opset 13, all axes from this one on are normalised together.
    if value.axis == axis if node.opset >= 13 else value.axis >= axis:
        raise CoupledError("it normalises over the rows")
    return [same_shape(value)]


def along_last_axes(node: Node) -> Outputs:
    """Normalises over the axes from `axis` on, with constants."""
    value = only_rows(node)
    assert value.axis is not None
    if value.axis >= node.axis(value.rank, default=-1):
        raise CoupledError("it normalises over the rows")
    for place in range(1, len(node)):
        require_below(node.constant(place), value)
    kept = same_shape(value)
    return [kept, *(keep_axis(node, value, output) for output in range(1, len(node.inferred)))]


def skip_layer_norm(node: Node) -> Outputs:
    value, skip = node.tensor(0), node.tensor(1)
    node.constants(*range(2, len(node)))
    if value.axis is None or value.axis >= value.rank - 1:
        raise CoupledError("it normalises over the rows")
    if skip.axis != value.axis or skip.rank != value.rank or not same(per_row(skip), per_row(value)):
        raise CoupledError("its inputs have their rows on different axes")
    return [same_shape(value)]


def lp_normalisation(node: Node) -> Outputs:
    value = only_rows(node)
    if value.axis == node.axis(value.rank, default=-1):
        raise CoupledError("it normalises over the rows")
    return [same_shape(value)]


def mean_variance(node: Node) -> Outputs:
    value = only_rows(node)
    if value.axis in {normalise(axis, value.rank) for axis in node.attribute("axes", [0, 2, 3])}:
        raise CoupledError("it normalises over the rows")
    return [same_shape(value)]


def batch_norm(node: Node) -> Outputs:
    value = only_rows(node)
    if node.attribute("training_mode", 0) or node.attribute("spatial", 1) == 0 or len(node.inferred) > 1:
        raise CoupledError("it takes the statistics of the batch")
    if value.axis == 1:
        raise CoupledError("its channels are the rows")
    return [same_shape(value)]


def quantise(node: Node) -> Outputs:
    """With constants: one for all, or one per place of an axis other than that of the rows."""
    value = only_rows(node)
    for place in (1, 2):
        constant = node.constant(place)
        if constant is None or constant.dims is None:
            if place == 1:
                raise CoupledError("its scale is not known")
            continue
        if same(multiply(constant.dims), 1):
            continue
        if constant.rank != 1 or node.attribute("block_size", 0):
            raise CoupledError("it has scales by blocks")
        if node.axis(value.rank, default=1) == value.axis:
            raise CoupledError("it has a scale for each place in the batch")
    return [same_shape(value)]


def qlinear_binary(node: Node) -> Outputs:
    for place in (1, 2, 4, 5, 6, 7):
        require_single(node.constant(place))
    dims, axis, each = broadcast([node.tensor(0), node.tensor(3)])
    if axis is None:
        raise CoupledError("a scale differs between rows")
    return [rows_on(dims, axis, each)]


def along_features(node: Node) -> Outputs:
    """One value per place of the last axis."""
    value = only_rows(node)
    if value.rank < 2 or value.axis == value.rank - 1:
        raise CoupledError("its features are the rows")
    return [same_shape(value)]
