"""Tensors as columns of Arrow tables, a value or a list of values for each row. Converts no values."""

import numpy as np
import pyarrow as pa

from raymlops.tensors import Array


def flat_to_arrow(values: Array) -> pa.Array:
    """Strings have one type, even in an empty column; bytes that are not text have their own."""
    if values.dtype != object:
        return pa.array(values)
    texts = values.tolist()
    try:
        return pa.array([text.decode() if isinstance(text, bytes) else text for text in texts], pa.string())
    except UnicodeDecodeError:
        return pa.array([text.encode() if isinstance(text, str) else text for text in texts], pa.binary())


def nest(values: Array) -> pa.Array:
    """(rows, ...) as lists of lists, a list for each axis."""
    nested = flat_to_arrow(values.ravel())
    for axis in range(values.ndim - 1, 0, -1):
        size = values.shape[axis]
        count = int(np.prod(values.shape[:axis]))
        nested = pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * size, pa.int32()), nested)
    return nested


def lists_of(values: Array, lengths: Array) -> pa.Array:
    """The elements of all rows, (elements, ...), as a column of a list for each row."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), nest(values))
