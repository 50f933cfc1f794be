"""A request that a model takes, in the shape of each protocol: found by trying, since a signature does not tell which
free sizes and values a model answers."""

import dataclasses
import json
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import numpy as np

from raymlops.errors import DeadlineError, InputError, NodeError, ProcessEndedError, RaymlopsError
from raymlops.serving import columns, json_tables
from raymlops.serving.columns import Column
from raymlops.serving.hosts import Hosted
from raymlops.tensors import Batch

LARGEST = 1000
"""Elements of an example in JSON; a larger one is written as a command that sends zeros."""
_SIZES = (1, 2, 3, 4, 8, 16, 32, 64, 128, 224)
"""Of the dimensions that a request chooses, other than that of the rows."""
_VALUES: tuple[dict[str, Any], ...] = (
    {"FP": 0.5, "BYTES": "text", "BOOL": True, "INT": 1},
    {"FP": 0.5, "BYTES": "1", "BOOL": False, "INT": 0},
    {"FP": 0, "BYTES": "", "BOOL": False, "INT": 0},
)
_TIME = "2013-07-01T12:00:00Z"


@dataclasses.dataclass(frozen=True, slots=True)
class ExampleTensor:
    """One value for all elements of an input, as JSON writes it."""

    column: Column
    shape: tuple[int, ...]
    value: Any

    @property
    def name(self) -> str:
        return self.column.spec.name

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def nest(self, axis: int = 0) -> Any:
        """As nested lists, from an axis on."""
        if axis == len(self.shape):
            return self.value
        return [self.nest(axis + 1) for _ in range(self.shape[axis])]

    def to_array(self) -> columns.Array:
        return np.full(self.shape, columns.to_array([self.value], self.column)[0], self.column.spec.dtype)


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A request of one row. `binary_out` is where an answer cannot be JSON."""

    tensors: tuple[ExampleTensor, ...]
    shape: "Shape"
    binary_out: bool = False

    @property
    def is_small(self) -> bool:
        return sum(tensor.size for tensor in self.tensors) <= LARGEST

    def to_batch(self) -> Batch:
        return {tensor.name: tensor.to_array() for tensor in self.tensors}

    def to_infer(self) -> dict[str, Any] | None:
        """Of the Open Inference Protocol; None where JSON cannot say it, or at length only."""
        if not self.is_small or any(tensor.column.spec.datatype == "FP16" for tensor in self.tensors):
            return None
        inputs = [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "datatype": "BYTES" if isinstance(tensor.value, str) else tensor.column.spec.datatype,
                "data": [tensor.value] * tensor.size,
            }
            for tensor in self.tensors
        ]
        more = {"parameters": {"binary_data_output": True}} if self.binary_out else {}
        return {"id": "example", "inputs": inputs, **more}

    def to_binary(self) -> tuple[str, int]:
        """The JSON of a request with binary tensors, and how many bytes of zero follow it."""
        inputs, total = [], 0
        for tensor in self.tensors:
            spec = tensor.column.spec
            size = tensor.size * (4 if spec.datatype == "BYTES" else spec.dtype.itemsize)  # empty strings
            parameters = {"binary_data_size": size}
            entry = {"name": spec.name, "shape": list(tensor.shape), "datatype": spec.datatype}
            inputs.append({**entry, "parameters": parameters})
            total += size
        more = {"parameters": {"binary_data_output": True}} if self.binary_out else {}
        return json.dumps({"inputs": inputs, **more}), total

    def to_invocations(self) -> dict[str, Any] | None:
        """Of MLflow's protocol."""
        return self._to_rows("dataframe_records", self.shape.in_records)

    def to_v1(self) -> dict[str, Any] | None:
        """Of KServe's protocol of version 1."""
        return self._to_rows("instances", self.shape.in_rows)

    def _to_rows(self, form: str, by_row: bool) -> dict[str, Any] | None:
        if not self.is_small:
            return None
        if by_row:
            return {form: [{tensor.name: tensor.nest(1) for tensor in self.tensors}]}
        return {"inputs": {tensor.name: tensor.nest() for tensor in self.tensors}}


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """Whether a model is asked and answers row by row: in KServe's protocol, and in tables of MLflow's."""

    in_rows: bool = True
    in_records: bool = True


def find_shape(hosted: Hosted) -> Shape:
    signature = hosted.endpoint.signature
    asked = all(spec.shape[:1] == (-1,) for spec in signature.inputs)
    one = len(signature.outputs) == 1
    answered = one or all(spec.shape[:1] == (-1,) for spec in signature.outputs)
    flat = one or not hosted.answers_frames or all(spec.shape == (-1,) for spec in signature.outputs)
    return Shape(asked and answered, asked and flat)


def list_candidates(hosted: Hosted) -> Iterator[Example]:
    """Requests that the model may take, the likeliest first."""
    binary_out = any(spec.datatype == "FP16" for spec in hosted.endpoint.signature.outputs)
    shape = find_shape(hosted)
    required = [column for column in hosted.columns.values() if not column.optional]
    free = any(size < 0 for column in required for size in column.spec.shape[1:])
    for size in _SIZES if free else _SIZES[:1]:
        for values in _VALUES:
            tensors = tuple(_make_tensor(column, size, values) for column in required)
            yield Example(tensors, shape, binary_out)


def _make_tensor(column: Column, size: int, values: Mapping[str, Any]) -> ExampleTensor:
    spec = column.spec
    shape = tuple(
        fixed if fixed >= 0 else (1 if axis == 0 else size) for axis, fixed in enumerate(spec.shape)
    )
    kind = {"F": "FP", "B": spec.datatype}.get(spec.datatype[0], "INT")
    value = _TIME if column.kind == "timestamp" else values["INT" if column.kind == "integer" else kind]
    return ExampleTensor(column, shape, value)


async def find_example(hosted: Hosted) -> Example | None:
    """A request that was tried, once for a model; None where the model refused each. One that cannot be tried, as it is
    loaded on demand, is the likeliest."""
    if hosted.try_batch is None:
        return next(list_candidates(hosted))
    async with hosted.search:  # others who want to know wait for the one that looks
        return await _search(hosted, hosted.try_batch)


async def _search(hosted: Hosted, try_batch: Callable[[Batch], Awaitable[Batch]]) -> Example | None:
    if not hosted.examples:
        for example in list_candidates(hosted):
            tried = example if example.is_small else _to_zeros(example)
            try:
                answer = await try_batch(tried.to_batch())
            except (InputError, NodeError):
                continue
            except DeadlineError:  # it was not refused
                hosted.examples.append(tried)
                break
            except ProcessEndedError:  # which is not to happen again
                hosted.examples.append(None)
                break
            except RaymlopsError:  # it is overloaded: another time
                return None
            hosted.examples.append(dataclasses.replace(tried, shape=_fit(tried.shape, answer, hosted)))
            break
        else:
            hosted.examples.append(None)
    found = hosted.examples[0]
    return found if isinstance(found, Example) else None


def _fit(shape: Shape, answer: Batch, hosted: Hosted) -> Shape:
    """What the signature promises of rows, as far as an answer keeps it."""
    signature = hosted.endpoint.signature
    try:
        json_tables.to_rows(answer, 1, signature)
        if hosted.answers_frames:
            json_tables.to_records(answer, 1, signature)
    except InputError:
        return Shape(in_rows=False, in_records=shape.in_records and not hosted.answers_frames)
    return shape


_ZEROS: dict[str, Any] = {"BYTES": "", "BOOL": False}


def _to_zeros(example: Example) -> Example:
    zeros = [
        dataclasses.replace(tensor, value=_ZEROS.get(tensor.column.spec.datatype, 0))
        for tensor in example.tensors
    ]
    return dataclasses.replace(example, tensors=tuple(zeros))
