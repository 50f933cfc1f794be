"""Joins what is known of a tensor that comes from one of several branches, or from the iterations of a loop."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from raymlops.models.row_independence.abstract_values import CoupledError, Value, per_row, rows_on
from raymlops.models.row_independence.symbolic_dims import Dim, Term, same

WIDENED = "w"
"""Prefix of the name of a size that changes from iteration to iteration of a loop."""


def join_values(
    values: Sequence[Value], make_unknown: Callable[[], Dim], widened: Callable[[], Dim] | None = None
) -> Value:
    """A value that may be any of several; with `widened`, of a loop's state before and after an iteration."""
    first = values[0]
    if all(are_alike(first, other) for other in values[1:]):
        return first
    if any(value.counts for value in values):
        raise CoupledError("what it gives depends on the number of rows")
    if any(value.axis != first.axis for value in values):
        raise CoupledError("not all of its branches or turns carry the rows on the same axis")
    datatype = first.datatype if all(value.datatype == first.datatype for value in values) else 0
    if any(value.dims is None or len(value.dims) != len(first.shape) for value in values):
        if first.axis is not None:
            raise CoupledError("the rank of what it gives is not known")
        return Value(datatype=datatype)
    sizes: list[Dim] = []
    for place, size in enumerate(first.shape):
        if all(same(size, value.size(place)) for value in values[1:]):
            sizes.append(size)
        elif place == first.axis:
            raise CoupledError("the places for each row change")
        elif widened is not None and is_widened(size):
            sizes.append(size)
        else:
            sizes.append((widened or make_unknown)())
    return Value(tuple(sizes), first.axis, None, datatype)


def is_widened(size: Dim) -> bool:
    return isinstance(size, Term) and any(name.startswith(WIDENED) for name, _ in size.powers)


def are_alike(first: Value, second: Value) -> bool:
    """True if both describe a tensor in the same way."""
    if first.axis != second.axis or (first.dims is None) != (second.dims is None):
        return False
    if (first.known is None) != (second.known is None):
        return False
    if first.dims is not None and not _all_same(first.dims, second.shape):
        return False
    return first.known is None or (
        second.known is not None
        and first.known.shape == second.known.shape
        and _all_same(first.known.flat, second.known.flat)
    )


def _all_same(first: Iterable[Any], second: Iterable[Any]) -> bool:
    pairs = list(itertools.zip_longest(first, second, fillvalue=None))
    return all(a is not None and b is not None and same(a, b) for a, b in pairs)


def take_slice(value: Value, axis: int) -> Value:
    """What one iteration of a scan sees of a tensor."""
    rank = value.rank
    if value.counts or not -rank <= axis < rank:
        raise CoupledError("what it runs over is not known")
    place = axis % rank
    if value.axis == place:
        raise CoupledError("it runs over the rows, one after the other")
    dims = (*value.shape[:place], *value.shape[place + 1 :])
    if value.axis is None:
        return Value(dims, datatype=value.datatype)
    moved = rows_on(dims, value.axis - (place < value.axis), per_row(value))
    return dataclasses.replace(moved, datatype=value.datatype)
