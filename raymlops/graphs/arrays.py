"""The arithmetic of nodes: combining answers, asking conditions, dealing keys, moving rows. Pure functions
of arrays."""

import hashlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import InputError
from raymlops.graphs.plan import Port
from raymlops.tensors import Batch

Array = npt.NDArray[Any]


def mean(arrays: Sequence[Array]) -> Array:
    total: Array = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    total /= len(arrays)
    return total


def weigh(arrays: Sequence[Array], weights: Sequence[float]) -> Array:
    """Average by weights, which need not sum to 1."""
    whole = math.fsum(weights)
    dtype = arrays[0].dtype.type
    total: Array = arrays[0] * dtype(weights[0] / whole)
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        total += array * dtype(weight / whole)
    return total


def vote(arrays: Sequence[Array]) -> Array:
    """The label that most arrays hold, element by element; in a tie the one of the earliest array."""
    votes = np.zeros((len(arrays), *arrays[0].shape), dtype=np.int32)
    for i, first in enumerate(arrays):
        for j, second in enumerate(arrays[: i + 1]):
            equal = first == second
            votes[i] += equal
            if j != i:
                votes[j] += equal
    winner = votes.argmax(axis=0)
    chosen = arrays[0].copy()
    for i, array in enumerate(arrays):
        chosen[winner == i] = array[winner == i]
    return chosen


def stack(arrays: Sequence[Array], axis: int) -> Array:
    """Side by side along an axis; arrays of one value a row count as one column."""
    return np.concatenate([array[:, None] if array.ndim == 1 else array for array in arrays], axis=axis)


TESTS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda values, known: np.isin(values, known),
    "not in": lambda values, known: ~np.isin(values, known),
}


def ask(values: Array, operation: str, value: Any) -> npt.NDArray[np.bool_]:
    """Rows for which a condition holds; one value a row."""
    if values.dtype == object:
        texts = _texts(values)
        known = value if isinstance(value, list) else [value]
        held = np.fromiter((text in known for text in texts), dtype=bool, count=len(texts))
        return held if operation in ("==", "in") else ~held
    return np.asarray(TESTS[operation](values, value), dtype=bool).reshape(len(values))


def _texts(values: Array) -> list[str]:
    return [
        value.decode() if isinstance(value, bytes) else str(value) for value in values.reshape(-1).tolist()
    ]


def _largest(rows: Array) -> Array:
    return np.asarray(rows.max(axis=1))


def _binary(rows: Array) -> Array:
    return np.asarray(np.maximum(rows, 1 - rows).max(axis=1))


def _margin(rows: Array) -> Array:
    """The largest less the second; a single value is its distance from one half, twice, as of two classes."""
    if rows.shape[1] == 1:
        return np.asarray(np.abs(2 * rows[:, 0] - 1))
    top = np.partition(rows, -2, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])


MEASURES: dict[str, Callable[[Array], Array]] = {"max": _largest, "binary": _binary, "margin": _margin}


def find_unsure(values: Array, measure: str, threshold: float) -> npt.NDArray[np.intp]:
    """Rows whose confidence is not known to reach the threshold; NaN does not."""
    if not len(values):
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero(~(MEASURES[measure](values.reshape(len(values), -1)) >= threshold))


def deal(key: str, weights: Mapping[str, float], salt: str = "") -> str:
    """The branch of a key, always the same one; when weights change, only keys of branches that lose share
    move.

    Weighted rendezvous hashing, after Thaler and Ravishankar, and Schindelhauer and Schomaker for the
    weights.
    """
    best, least = "", math.inf
    for branch, weight in weights.items():
        if weight > 0:
            digest = hashlib.blake2b(f"{salt}\0{branch}\0{key}".encode(), digest_size=8).digest()
            score = -math.log((int.from_bytes(digest) + 1) / (2**64 + 1)) / weight
            if score < least:
                best, least = branch, score
    return best


def deal_rows(keys: Array, weights: Mapping[str, float], salt: str = "") -> dict[str, npt.NDArray[np.intp]]:
    """Branch -> its rows, by one key a row."""
    texts = _texts(keys)
    known = {text: deal(text, weights, salt) for text in set(texts)}
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows.setdefault(known[text], []).append(row)
    return {branch: np.asarray(chosen, dtype=np.intp) for branch, chosen in rows.items()}


def join_rows(rows: int, parts: Sequence[tuple[npt.NDArray[np.intp], Batch]]) -> Batch:
    """Answers of sub-batches, back in the order of the whole."""
    joined = {name: np.empty((rows, *values.shape[1:]), values.dtype) for name, values in parts[0][1].items()}
    for index, answer in parts:
        put_rows(joined, index, answer)
    return joined


def put_rows(target: Batch, index: npt.NDArray[np.intp], answer: Batch) -> None:
    for name, values in target.items():
        part = answer[name]
        if part.shape[1:] != values.shape[1:] or len(part) != len(index):
            raise ValueError(
                f"tensor {name!r} is {list(part.shape)} for {len(index)} rows, but the other rows have "
                f"{list(values.shape[1:])} each"
            )
        values[index] = part


def group_elements(values: Array, lengths: Array) -> Array:
    """Elements of all rows -> a ragged array: one array of elements a row."""
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
    """A ragged array -> the elements of all rows, and how many are each row's."""
    lengths = np.fromiter((len(elements) for elements in ragged), dtype=np.int64, count=len(ragged))
    if not lengths.sum():
        return np.empty((0, *(max(size, 0) for size in port.spec.shape[1:])), port.spec.dtype), lengths
    return np.concatenate([elements for elements in ragged if len(elements)]), lengths


def differ(first: Batch, second: Batch, tolerance: float) -> tuple[bool, float]:
    """Whether two answers differ in any shared tensor, and the largest difference of numbers."""
    differs, largest = False, 0.0
    for name in first.keys() & second.keys():
        a, b = first[name], second[name]
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            return True, math.inf
        if a.dtype.kind == "f" and a.size:
            gap = float(np.nanmax(np.abs(a.astype(np.float64) - b), initial=0.0))
            unequal = bool((np.isnan(a) != np.isnan(b)).any())
            differs, largest = differs or gap > tolerance or unequal, max(largest, gap)
        elif a.dtype == object:
            differs = differs or any(not np.array_equal(x, y) for x, y in zip(a.flat, b.flat, strict=True))
        else:
            differs = differs or not np.array_equal(a, b)
    return differs, largest
