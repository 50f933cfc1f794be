"""Abstract values of tensors and nodes in the proof of row independence, and steps that all rules share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from raymlops.models.row_independence.symbolic_dims import ROWS, Dim, counts_rows, divide, multiply, same

KnownValues = npt.NDArray[Any]

OLDEST_OPSET = 7
"""Before this opset, broadcasting was an attribute of each operator."""

MOST_KNOWN = 256
"""Elements of the largest constant whose values are kept: shapes, axes, scales."""


class CoupledError(Exception):
    """Rows may depend on each other; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """What the proof knows of a tensor.

    Without an `axis` it is the same for any rows and any number of them, unless `known` or `dims` depend on the
    number of rows. With one, the axis has `dims[axis] = rows * k` places, k per row, in the order of the rows, and
    each place depends on its row alone.
    """

    dims: tuple[Dim, ...] | None = None
    """None if even the rank is unknown."""
    axis: int | None = None
    known: KnownValues | None = None
    """The values of a small constant; integers as objects, which may be terms."""
    datatype: int = 0
    """The onnx.TensorProto.DataType; 0 is unknown."""

    @property
    def counts(self) -> bool:
        """True for a tensor that changes with the number of rows, such as a shape."""
        if self.axis is not None:
            return False
        listed = (
            self.known is not None and self.known.dtype == object and any(map(counts_rows, self.known.flat))
        )
        return listed or any(map(counts_rows, self.dims or ()))

    @property
    def is_constant(self) -> bool:
        return self.axis is None and not self.counts

    @property
    def rank(self) -> int:
        if self.dims is None:
            raise CoupledError("the rank of an input is not known")
        return len(self.dims)

    def size(self, axis: int) -> Dim:
        if self.dims is None:
            raise CoupledError("the rank of an input is not known")
        return self.dims[axis]

    @property
    def shape(self) -> tuple[Dim, ...]:
        if self.dims is None:
            raise CoupledError("the rank of an input is not known")
        return self.dims


@dataclasses.dataclass(frozen=True)
class Node:
    """One operator with its abstract inputs; a missing optional input is None."""

    operator: str
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    opset: int
    inferred: tuple[tuple[Dim, ...] | None, ...]
    """Shapes of the outputs, as far as the operator's own shape inference determines them."""
    make_unknown: Callable[[], Dim]
    """A size that is unknown, but does not change with the rows."""

    def __len__(self) -> int:
        return len(self.inputs)

    def has(self, place: int) -> bool:
        return place < len(self.inputs) and self.inputs[place] is not None

    def tensor(self, place: int) -> Value:
        """An input that carries data."""
        value = self.inputs[place] if place < len(self.inputs) else None
        if value is None:
            raise CoupledError(f"input {place} is missing")
        if value.counts:
            raise CoupledError("it computes with the number of rows")
        return value

    def constant(self, place: int) -> Value | None:
        """An input that must be the same for all rows."""
        if not self.has(place):
            return None
        value = self.tensor(place)
        if not value.is_constant:
            raise CoupledError(f"its input {place} differs between rows")
        return value

    def constants(self, *places: int) -> None:
        for place in places:
            self.constant(place)

    def numbers(self, place: int) -> list[Any]:
        """A small input with known values, flattened; may depend on the number of rows."""
        value = self.inputs[place] if place < len(self.inputs) else None
        if value is None or value.known is None or value.axis is not None:
            raise CoupledError(f"its input {place} is not known before it runs")
        return list(value.known.flat)

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def shape(self, output: int = 0) -> tuple[Dim, ...]:
        found = self.inferred[output] if output < len(self.inferred) else None
        if found is None:
            raise CoupledError("the shape of its output is not known")
        return found

    def axis(self, rank: int, name: str = "axis", default: int = 0) -> int:
        return normalise(int(self.attribute(name, default)), rank)


Outputs = Sequence[Value]

Rule = Callable[[Node], Outputs]


def rows_on(dims: Sequence[Dim], axis: int, per_row: Dim = 1) -> Value:
    """A tensor with `per_row` places per row on that axis; its other sizes must not change with the rows."""
    shape = list(dims)
    shape[axis] = multiply([ROWS, per_row])
    if counts_rows(per_row):
        raise CoupledError("the places for each row change with the number of rows")
    if any(counts_rows(size) for place, size in enumerate(shape) if place != axis):
        raise CoupledError("two of its axes change with the number of rows")
    return Value(tuple(shape), axis)


def per_row(value: Value) -> Dim:
    """Places per row on the axis of the rows."""
    assert value.axis is not None
    return divide(value.size(value.axis), ROWS)


def normalise(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise CoupledError(f"axis {axis} does not fit rank {rank}")
    return axis % rank


def keep_axis(node: Node, value: Value, output: int = 0) -> Value:
    """The rows stay in place, in an output of the inferred shape."""
    assert value.axis is not None
    return rows_on(node.shape(output), value.axis, per_row(value))


def only_rows(node: Node, axis: int | None = None) -> Value:
    """The first input, which must carry the rows, on that axis if one is given; all others must be constants."""
    value = node.tensor(0)
    node.constants(*range(1, len(node)))
    if value.axis is None or (axis is not None and value.axis != axis):
        raise CoupledError("the rows are not on the axis that it keeps apart")
    return value


def same_shape(value: Value) -> Value:
    assert value.axis is not None
    return rows_on(value.shape, value.axis, per_row(value))


def broadcast(values: Sequence[Value]) -> tuple[tuple[Dim, ...], int | None, Dim]:
    """Shape, axis of the rows, and places per row of operands that are broadcast to each other."""
    rank = max(value.rank for value in values)
    carrying = [value for value in values if value.axis is not None]
    if not carrying:
        return broadcast_sizes(values, rank), None, 1
    first = carrying[0]
    assert first.axis is not None
    place, each = first.rank - first.axis, per_row(first)
    for value in values:
        if value.axis is not None:
            if value.rank - value.axis != place or not same(per_row(value), each):
                raise CoupledError("its inputs have their rows on different axes")
        elif value.rank >= place and not same(value.size(value.rank - place), 1):
            raise CoupledError("an input has a value for each place in the batch")
    return broadcast_sizes(values, rank), rank - place, each


def broadcast_sizes(values: Sequence[Value], rank: int) -> tuple[Dim, ...]:
    sizes: list[Dim] = []
    for place in range(rank, 0, -1):
        found = [value.size(value.rank - place) for value in values if value.rank >= place]
        wide = [size for size in found if not same(size, 1)]
        # Sizes other than 1 are all equal, or one of them is 1 after all: an integer is the safer choice.
        whole = [size for size in wide if isinstance(size, int)]
        sizes.append(whole[0] if whole else wide[0] if wide else 1)
    return tuple(sizes)


def require_below(constant: Value | None, value: Value) -> None:
    """A constant that is broadcast to `value` must not have one place per row."""
    assert value.axis is not None
    place = value.rank - value.axis
    if constant is not None and constant.rank >= place and not same(constant.size(constant.rank - place), 1):
        raise CoupledError("an input has a value for each place in the batch")


def require_single(constant: Value | None) -> None:
    if constant is not None and (constant.dims is None or not same(multiply(constant.dims), 1)):
        raise CoupledError("a scale or zero point is no single value")
