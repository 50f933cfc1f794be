"""Copies the outputs of a node with user code, and checks them against its declaration: names, datatypes, shapes and
rows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from raymlops.errors import NodeError
from raymlops.graphs.plan import Port
from raymlops.tensors import DATATYPE_OF_NUMPY, Batch, TensorSpec

Check = Callable[[Batch, Any], Batch]
"""The node's batch and its copied outputs -> the declared tensors. Raises NodeError."""


def copy_answer(answer: Any) -> Any:
    """The outputs of user code in memory of their own, as code may keep its arrays and write into them for the next
    request, and texts as object arrays: others have a longest text, to which longer ones would be cut. Call it before
    the next request can begin; what is no dict of arrays is left to the check."""
    if not isinstance(answer, dict):
        return answer
    return {
        name: _copy(values) if isinstance(values, np.ndarray) else values for name, values in answer.items()
    }


def _copy(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if values.dtype.kind in "SU":
        return values.astype(object)
    copied = values.copy()
    if copied.dtype == object and copied.ndim == 1:
        for row, elements in enumerate(values):
            if isinstance(elements, np.ndarray):
                copied[row] = _copy(elements)
    return copied


def accept_all(batch: Batch, answer: Any) -> Batch:
    """For a node that declares nothing."""
    return answer  # type: ignore[no-any-return]


def make_check(path: str, outputs: Sequence[Port]) -> Check:
    """A check of the outputs of the node at `path`. Undeclared tensors are dropped."""
    names = [port.spec.name for port in outputs]

    def check(batch: Batch, answer: Any) -> Batch:
        if not isinstance(answer, dict):
            raise NodeError(
                f"Node {path!r} answered {type(answer).__name__}, not a dict of arrays by name", path
            )
        lengths = {len(values) for values in batch.values() if np.ndim(values)}
        rows = (
            lengths.pop() if len(lengths) == 1 else None
        )  # else not all of its inputs have one value per row
        for port, name in zip(outputs, names, strict=True):
            if name not in answer:
                answered = ", ".join(map(repr, answer)) or "nothing"
                raise NodeError(f"Node {path!r} declares output {name!r}, but answered {answered}", path)
            fault = _find_fault(answer[name], port.spec, port.ragged, rows)
            if fault:
                raise NodeError(
                    f"Node {path!r} declares {port}, but answered {fault}",
                    path,
                )
        return {name: answer[name] for name in names}

    return check


def _find_fault(values: Any, spec: TensorSpec, ragged: bool, rows: int | None) -> str:
    """What is wrong with an array; empty if nothing is."""
    if not isinstance(values, np.ndarray):
        return f"{type(values).__name__}, not a numpy array"
    if ragged:
        return _find_ragged_fault(values, spec, rows)
    fault = _find_type_fault(values, spec)
    if fault:
        return fault
    if spec.shape[:1] == (-1,) and rows is not None and len(values) != rows:
        return f"{len(values)} rows for {rows}"
    return ""


def _find_ragged_fault(values: np.ndarray[Any, Any], spec: TensorSpec, rows: int | None) -> str:
    if values.ndim != 1 or values.dtype != object:
        return f"{_describe(values)}, not an object array with one array of elements a row"
    if rows is not None and len(values) != rows:
        return f"{len(values)} rows for {rows}"
    first: tuple[int, ...] | None = None
    for row, elements in enumerate(values):
        if not isinstance(elements, np.ndarray) or not elements.ndim:
            return f"{type(elements).__name__} in row {row}, not an array of its elements"
        if not len(elements):
            continue
        if fault := _find_type_fault(elements, spec):
            return f"{fault} in row {row}"
        first = first or elements.shape[1:]
        if elements.shape[1:] != first:
            return (
                f"elements of {list(elements.shape[1:])} in row {row}, and of {list(first)} in a row before"
            )
    return ""


def _find_type_fault(values: np.ndarray[Any, Any], spec: TensorSpec) -> str:
    if values.dtype == spec.dtype and spec.accepts(values.shape):
        return ""
    return _describe(values)


def _describe(values: np.ndarray[Any, Any]) -> str:
    datatype = DATATYPE_OF_NUMPY.get(values.dtype)
    return f"{datatype.name if datatype else values.dtype}[{','.join(map(str, values.shape))}]"
