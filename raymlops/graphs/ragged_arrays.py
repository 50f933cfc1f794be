"""Converts ragged arrays, with one array of elements per row, from and to flat ones."""

import numpy as np
import numpy.typing as npt

from raymlops.errors import InputError
from raymlops.graphs.plan import Port
from raymlops.tensors import Array


def group_elements(values: Array, lengths: Array) -> Array:
    """Elements of all rows -> a ragged array: one array of elements per row."""
    grouped = np.empty(len(lengths), dtype=object)
    if len(lengths) and not 0 <= lengths.min() <= lengths.max() <= len(values):
        raise InputError(f"The rows' lengths must be from 0 to the {len(values)} elements that there are")
    ends = np.cumsum(lengths)
    if (ends[-1] if len(ends) else 0) != len(values):
        raise InputError(
            f"{len(values)} elements, but the rows' lengths sum to {ends[-1] if len(ends) else 0}"
        )
    for row, (length, end) in enumerate(zip(lengths.tolist(), ends.tolist(), strict=True)):
        grouped[row] = values[end - length : end]
    return grouped


def flatten_elements(ragged: Array, port: Port) -> tuple[Array, npt.NDArray[np.int64]]:
    """A ragged array -> the elements of all rows, and the count of each row."""
    lengths = np.fromiter((len(elements) for elements in ragged), dtype=np.int64, count=len(ragged))
    if not lengths.sum():
        return np.empty((0, *(max(size, 0) for size in port.spec.shape[1:])), port.spec.dtype), lengths
    return np.concatenate([elements for elements in ragged if len(elements)]), lengths
