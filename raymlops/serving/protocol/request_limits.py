"""Limits on the cost of one request, as a value, and checks that run before anything is allocated. Knows tensors, but
neither HTTP nor models."""

import dataclasses
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.errors import InputError, TooLargeError
from raymlops.specs.serving import Limits
from raymlops.tensors import Batch, Signature, TensorSpec

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_REPR.maxlevel = 3


@dataclasses.dataclass(frozen=True, slots=True)
class RequestLimits:
    """`json_depth` of nested lists; `json_elements` also limits strings, which cost as much in any form; `rows` of a
    request; `elements` of a tensor; `answer_bytes` of all outputs together."""

    json_depth: int = 32
    json_elements: int = 1_000_000
    rows: int = 1_000_000
    elements: int = 2**26
    answer_bytes: int = 64 * 2**20

    @classmethod
    def of(cls, limits: Limits) -> "RequestLimits":
        return cls(
            json_depth=limits.json_depth,
            json_elements=limits.json_elements,
            rows=limits.rows,
            elements=limits.elements,
            answer_bytes=int(limits.answer_mb * 2**20),
        )


def show(value: object) -> str:
    """About 60 characters of what a caller sent, without rendering all of it."""
    text = _REPR.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def count_elements(shape: Sequence[Any], spec: TensorSpec, limits: RequestLimits) -> int:
    """Elements of a tensor with this declared shape. Raises InputError if the model does not take such a shape,
    TooLargeError.

    Sizes count even beside a zero: rows without elements still have answers.
    """
    count = span = 1
    fits = len(shape) == len(spec.shape)
    for want, size in zip(spec.shape, shape, strict=False):
        if type(size) is not int or size < 0:
            raise InputError(f"Input {spec.name!r}: shape must be a list of whole numbers, got {show(shape)}")
        if want != size and want != -1:
            fits = False
        count *= size
        span *= size or 1
    if not fits:
        raise InputError(f"Input {spec.name!r} has shape {show(shape)}, but the model takes {spec}")
    if span > limits.elements:
        raise TooLargeError(
            f"Input {spec.name!r} has shape {show(shape)}, over {limits.elements} elements; send fewer rows a request"
        )
    return count


def check_rows(rows: int, limits: RequestLimits) -> None:
    """Raises TooLargeError."""
    if rows > limits.rows:
        raise TooLargeError(f"The request has {rows} rows, over {limits.rows}; send fewer rows a request")


def check_strings(count: int, name: str, limits: RequestLimits) -> None:
    """Raises TooLargeError."""
    if count > limits.json_elements:
        raise TooLargeError(
            f"{name!r} has {count} strings, over {limits.json_elements}; send fewer rows a request"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class AnswerEstimate:
    """Bytes and elements of each output per row, as far as its signature tells."""

    row_bytes: Mapping[str, int]
    row_elements: Mapping[str, int]
    safe_rows: int
    """Rows up to which all outputs together are within every limit, so that nothing needs to be added up."""

    @classmethod
    def of(cls, signature: Signature, limits: RequestLimits) -> "AnswerEstimate":
        rowwise = all(spec.shape[:1] == (-1,) for spec in signature.inputs)
        elements = {
            spec.name: math.prod(max(1, size) for size in spec.shape[1:])
            if rowwise and spec.shape[:1] == (-1,)
            else 0
            for spec in signature.outputs
        }
        sizes = {spec.name: elements[spec.name] * spec.dtype.itemsize for spec in signature.outputs}
        safe = min(
            limits.json_elements // max(1, sum(elements.values())),
            limits.answer_bytes // max(1, sum(sizes.values())),
        )
        return cls(sizes, elements, safe)

    def check(
        self, rows: int, binary: Mapping[str, bool], limits: RequestLimits, signature: Signature
    ) -> None:
        """Before the run: checks that the answer to so many rows can be within the limits, for the requested outputs,
        sent as `binary` or as JSON. Raises TooLargeError."""
        if rows <= self.safe_rows:
            return
        strings = {spec.name for spec in signature.outputs if spec.datatype == "BYTES"}
        _check_totals(
            sum(rows * self.row_bytes[name] for name in binary),
            sum(
                rows * self.row_elements[name]
                for name, is_binary in binary.items()
                if not is_binary or name in strings
            ),
            limits,
        )


def check_answer(answer: Batch, binary: Mapping[str, bool], limits: RequestLimits) -> None:
    """After the run, before anything is encoded: checks the same for the model's actual outputs. Raises
    TooLargeError."""
    size = costly = 0
    for name, is_binary in binary.items():
        array = answer[name]
        if array.dtype == object:
            check_strings(array.size, name, limits)
            size += sum(map(len, array.flat)) + 4 * array.size
        else:
            size += array.nbytes
        if not is_binary:
            costly += array.size
    _check_totals(size, costly, limits)


def _check_totals(size: int, costly: int, limits: RequestLimits) -> None:
    if size > limits.answer_bytes:
        raise TooLargeError(
            f"The answer has {size} bytes, over {limits.answer_bytes}; ask for fewer rows or fewer outputs"
        )
    if costly > limits.json_elements:
        raise TooLargeError(
            f"The answer has {costly} elements in JSON, over {limits.json_elements}; ask for binary tensors "
            "(parameters: binary_data_output), or for fewer rows or outputs"
        )
