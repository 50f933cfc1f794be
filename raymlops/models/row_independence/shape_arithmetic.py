"""Constant folding of the arithmetic that graphs do on shapes and small constants, with sizes that are known only as
terms.

`fold` returns None for what it cannot determine; that is not an error, but an unknown value.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from raymlops.models.row_independence.abstract_values import MOST_KNOWN, CoupledError, KnownValues, Value
from raymlops.models.row_independence.symbolic_dims import Term, UndecidedError, multiply

_LARGEST = 2**62
"""Larger integers are not folded: ONNX's overflow, Python's do not."""


def fold(
    name: str, inputs: Sequence[Value | None], attributes: Mapping[str, Any], opset: int, outputs: int
) -> list[Value] | None:
    """The outputs of an ai.onnx operator whose inputs are known, or of which only the shape matters."""
    try:
        found = _fold(name, inputs, attributes, opset, outputs)
    except (
        UndecidedError,
        CoupledError,
        ValueError,
        IndexError,
        TypeError,
        ZeroDivisionError,
        OverflowError,
    ):
        return None
    if found is None or any(value.known is not None and not _is_small(value.known) for value in found):
        return None
    return found


def read_constant(array: KnownValues, datatype: int) -> Value:
    """The abstract value of a constant; integers and booleans as objects."""
    known = None
    if array.size <= MOST_KNOWN and array.dtype.kind in "iubf":
        known = array.astype(object) if array.dtype.kind in "iub" else array
    return Value(tuple(int(size) for size in array.shape), None, known, datatype)


def read_tensor(tensor: onnx.TensorProto) -> Value:
    small = math.prod(tensor.dims) <= MOST_KNOWN
    plain = tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.data_type not in _ODD
    if small and plain and all(size >= 0 for size in tensor.dims):
        return read_constant(onnx.numpy_helper.to_array(tensor), tensor.data_type)
    return Value(tuple(tensor.dims), datatype=tensor.data_type)


_ODD = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)


def to_tensor(value: Value) -> onnx.TensorProto | None:
    """The constant, for an operator's own shape inference; None if it is not fully known."""
    if value.known is None or any(isinstance(item, Term) for item in value.known.flat):
        return None
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.datatype)
    except KeyError:
        return None
    return onnx.numpy_helper.from_array(np.asarray(value.known).astype(dtype))


def _is_small(known: KnownValues) -> bool:
    return known.size <= MOST_KNOWN and all(
        abs(item) < _LARGEST for item in known.flat if isinstance(item, int) and not isinstance(item, bool)
    )


def _fold(
    name: str, inputs: Sequence[Value | None], attributes: Mapping[str, Any], opset: int, outputs: int
) -> list[Value] | None:
    if name == "Constant":
        return [_read_attribute(attributes)]
    if name in ("Shape", "Size"):
        value = inputs[0]
        if value is None or value.dims is None:
            return None
        if name == "Size":
            return [_whole(np.array(multiply(value.dims), dtype=object))]
        return [_whole(_listed(value.dims[attributes.get("start", 0) : attributes.get("end")]))]
    if any(value is not None and (value.known is None or value.axis is not None) for value in inputs):
        return None
    known = [None if value is None else value.known for value in inputs]
    if not known or known[0] is None:
        return None
    return _fold_moved(name, inputs, known, attributes, opset, outputs) or _fold_arithmetic(
        name, inputs, known, attributes
    )


def _fold_moved(
    name: str,
    inputs: Sequence[Value | None],
    known: Sequence[Any],
    attributes: Mapping[str, Any],
    opset: int,
    outputs: int,
) -> list[Value] | None:
    """For operators that compute no numbers."""
    datatype = inputs[0].datatype if inputs[0] else 0
    if name in _MOVES:
        moved = _MOVES[name](known, attributes, opset)
        return None if moved is None else [_value(moved, datatype)]
    if name == "Split" and outputs and attributes.get("axis", 0) in (0, -1) and known[0].ndim == 1:
        given = known[1] if len(known) > 1 and known[1] is not None else None
        sizes = list(given.flat) if given is not None else attributes.get("split")
        sizes = sizes or [len(known[0]) // outputs] * outputs
        ends = np.cumsum(sizes)[:-1].astype(int)
        return [_value(part, datatype) for part in np.split(known[0], ends)]
    if name == "Cast":
        return _cast(known[0], int(attributes["to"]))
    if name == "ConstantOfShape":
        filled = attributes.get("value")
        array = np.zeros(1, np.float32) if filled is None else onnx.numpy_helper.to_array(filled)
        sizes = [int(size) for size in _concrete(known[0]).flat]
        if math.prod(sizes) > MOST_KNOWN:
            return None
        full = np.full(sizes, array.flat[0], array.dtype)
        return [read_constant(full, onnx.helper.np_dtype_to_tensor_dtype(array.dtype))]
    return None


def _fold_arithmetic(
    name: str, inputs: Sequence[Value | None], known: Sequence[Any], attributes: Mapping[str, Any]
) -> list[Value] | None:
    """For operators that compute numbers, on integers."""
    datatype = inputs[0].datatype if inputs[0] else 0
    if any(array is not None and array.dtype != object for array in known):
        return None  # floating-point arithmetic rounds as the operator does, not as numpy
    if name in _COMPARISONS:
        result = np.frompyfunc(_COMPARISONS[name], 2, 1)(*known)
        return [_value(np.asarray(result, dtype=object), onnx.TensorProto.BOOL)]
    if name in _ARITHMETIC:
        function = _ARITHMETIC[name]
        total = known[0]
        for other in known[1:]:
            total = np.frompyfunc(function, 2, 1)(total, other)
        return [_value(np.asarray(total, dtype=object), datatype)]
    if name == "Where":
        chosen = np.frompyfunc(lambda c, a, b: a if _truth(c) else b, 3, 1)(*known)
        return [_value(np.asarray(chosen, dtype=object), inputs[1].datatype if inputs[1] else 0)]
    if name in _TOTALS and known[0].ndim <= 1 and len(known) == 1 and not attributes.get("axes", [0])[0]:
        single = _TOTALS[name](list(known[0].flat))
        shape = (1,) * known[0].ndim if attributes.get("keepdims", 1) else ()
        return [_value(np.full(shape, single, dtype=object), datatype)]
    return None


def _value(known: KnownValues, datatype: int) -> Value:
    return Value(tuple(known.shape), None, known, datatype)


def _whole(known: KnownValues) -> Value:
    return _value(known, onnx.TensorProto.INT64)


def _listed(items: Sequence[Any]) -> KnownValues:
    array = np.empty(len(items), dtype=object)
    array[:] = list(items)
    return array


def _concrete(known: KnownValues) -> KnownValues:
    if any(isinstance(item, Term) for item in known.flat):
        raise UndecidedError
    return known


def _truth(item: Any) -> bool:
    if isinstance(item, Term):
        raise UndecidedError
    return bool(item)


def _read_attribute(attributes: Mapping[str, Any]) -> Value:
    if "value" in attributes:
        return read_tensor(attributes["value"])
    numeric = {
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_float": np.float32,
        "value_floats": np.float32,
    }
    for name, dtype in numeric.items():
        if name in attributes:
            array = np.array(attributes[name], dtype)
            return read_constant(array, onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
    if "value_strings" in attributes:
        return Value((len(attributes["value_strings"]),), datatype=onnx.TensorProto.STRING)
    if "value_string" in attributes:
        return Value((), datatype=onnx.TensorProto.STRING)
    return Value(tuple(attributes["sparse_value"].dims))


def _cast(known: KnownValues, to: int) -> list[Value] | None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(to)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if known.dtype == object and all(
            isinstance(i, Term) or bounds.min <= i <= bounds.max for i in known.flat
        ):
            whole = np.frompyfunc(lambda i: i if isinstance(i, Term) else int(i), 1, 1)(known)
            return [_value(np.asarray(whole, dtype=object), to)]
        return None
    if dtype.kind == "b" and known.dtype == object:
        return [_value(np.asarray(np.frompyfunc(lambda i: bool(i != 0), 1, 1)(known), dtype=object), to)]
    if dtype == np.float32 and known.dtype == object:
        return [_value(_concrete(known).astype(np.float32), to)]
    return None


def _truncated(dividend: Any, divisor: Any) -> Any:
    """Rounds towards zero as C does; for terms, only if there is no remainder."""
    if isinstance(dividend, Term) or isinstance(divisor, Term):
        return dividend // divisor
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) == (divisor < 0) else -quotient


_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "Equal": operator.eq,
    "Greater": lambda a, b: b < a,
    "GreaterOrEqual": lambda a, b: not a < b,
    "Less": operator.lt,
    "LessOrEqual": lambda a, b: not b < a,
    "And": lambda a, b: _truth(a) and _truth(b),
    "Or": lambda a, b: _truth(a) or _truth(b),
}
_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _truncated,
    "Max": lambda a, b: b if a < b else a,
    "Min": lambda a, b: a if a < b else b,
}


def _sum(items: Sequence[Any]) -> Any:
    total: Any = 0
    for item in items:
        total = total + item
    return total


_TOTALS: Mapping[str, Callable[[Sequence[Any]], Any]] = {"ReduceProd": multiply, "ReduceSum": _sum}


def _axes(known: Sequence[KnownValues | None], attributes: Mapping[str, Any]) -> list[int]:
    if len(known) > 1 and known[1] is not None:
        return [int(axis) for axis in known[1].flat]
    return [int(axis) for axis in attributes.get("axes") or ()]


def _move_gather(
    known: Sequence[KnownValues | None], attributes: Mapping[str, Any], opset: int
) -> KnownValues | None:
    data, indices = known[0], known[1]
    assert data is not None
    assert indices is not None
    return np.asarray(np.take(data, _concrete(indices).astype(np.int64), axis=attributes.get("axis", 0)))


def _move_slice(
    known: Sequence[KnownValues | None], attributes: Mapping[str, Any], opset: int
) -> KnownValues | None:
    data = known[0]
    assert data is not None
    if opset < 10:
        starts, ends = attributes["starts"], attributes["ends"]
        axes, steps = attributes.get("axes") or range(len(starts)), [1] * len(starts)
    else:
        given = [None if array is None else [int(i) for i in _concrete(array).flat] for array in known[1:]]
        starts, ends = given[0], given[1]
        assert starts is not None
        assert ends is not None
        axes = given[2] if len(given) > 2 and given[2] is not None else range(len(starts))
        steps = given[3] if len(given) > 3 and given[3] is not None else [1] * len(starts)
    if any(step < 1 for step in steps):
        return None
    cuts: list[slice] = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cuts[axis] = slice(start, end, step)
    return np.asarray(data[tuple(cuts)])


def _move_concat(
    known: Sequence[KnownValues | None], attributes: Mapping[str, Any], opset: int
) -> KnownValues | None:
    parts = [part for part in known if part is not None]
    if len({part.dtype == object for part in parts}) > 1:
        return None
    return np.concatenate(parts, axis=attributes["axis"])


def _move_squeeze(
    known: Sequence[KnownValues | None], attributes: Mapping[str, Any], opset: int
) -> KnownValues | None:
    assert known[0] is not None
    axes = _axes(known, attributes)
    return np.squeeze(known[0], tuple(axes) if axes else None)


def _move_unsqueeze(
    known: Sequence[KnownValues | None], attributes: Mapping[str, Any], opset: int
) -> KnownValues | None:
    assert known[0] is not None
    return np.expand_dims(known[0], tuple(_axes(known, attributes)))


def _move_reshape(
    known: Sequence[KnownValues | None], attributes: Mapping[str, Any], opset: int
) -> KnownValues | None:
    data, shape = known[0], known[1]
    assert data is not None
    assert shape is not None
    sizes = [int(size) for size in _concrete(shape).flat]
    if 0 in sizes and not attributes.get("allowzero", 0):
        sizes = [data.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return data.reshape(sizes)


def _move_expand(
    known: Sequence[KnownValues | None], attributes: Mapping[str, Any], opset: int
) -> KnownValues | None:
    data, shape = known[0], known[1]
    assert data is not None
    assert shape is not None
    sizes = tuple(int(size) for size in _concrete(shape).flat)
    return (
        np.broadcast_to(data, np.broadcast_shapes(data.shape, sizes))
        if math.prod(sizes) <= MOST_KNOWN
        else None
    )


def _move_range(
    known: Sequence[KnownValues | None], attributes: Mapping[str, Any], opset: int
) -> KnownValues | None:
    if any(array is None or array.dtype != object for array in known):
        return None
    start, limit, step = (int(_concrete(array).flat[0]) for array in known if array is not None)
    numbers = range(start, limit, step)
    return _listed(list(numbers)) if len(numbers) <= MOST_KNOWN else None


_MOVES: Mapping[str, Callable[[Sequence[KnownValues | None], Mapping[str, Any], int], KnownValues | None]] = {
    "Identity": lambda known, attributes, opset: known[0],
    "Gather": _move_gather,
    "Slice": _move_slice,
    "Concat": _move_concat,
    "Squeeze": _move_squeeze,
    "Unsqueeze": _move_unsqueeze,
    "Reshape": _move_reshape,
    "Expand": _move_expand,
    "Range": _move_range,
}
