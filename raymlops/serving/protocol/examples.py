"""Example requests of a model, in the form of each protocol, as values. `example_search` finds by trying which one a
model accepts."""

import dataclasses
import json
import math
from typing import Any

import numpy as np

from raymlops.serving.protocol import columns
from raymlops.serving.protocol.columns import Column
from raymlops.tensors import Array, Batch

LARGEST = 1000
"""Elements of an example in JSON; a larger one is shown as a command that sends zeros."""


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
        """As nested lists, from this axis on."""
        if axis == len(self.shape):
            return self.value
        return [self.nest(axis + 1) for _ in range(self.shape[axis])]

    def to_array(self) -> Array:
        return np.full(self.shape, columns.to_array([self.value], self.column)[0], self.column.spec.dtype)


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A request of one row. `binary_out` if the answer cannot be JSON."""

    tensors: tuple[ExampleTensor, ...]
    shape: "Shape"
    binary_out: bool = False

    @property
    def is_small(self) -> bool:
        return sum(tensor.size for tensor in self.tensors) <= LARGEST

    def to_batch(self) -> Batch:
        return {tensor.name: tensor.to_array() for tensor in self.tensors}

    def to_infer(self) -> dict[str, Any] | None:
        """In the Open Inference Protocol; None if JSON cannot express it, or only at great length."""
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
        """The JSON of a request with binary tensors, and how many zero bytes follow it."""
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
    """Whether a model is called and answers row by row: in KServe's protocol, and in tables of MLflow's."""

    in_rows: bool = True
    in_records: bool = True
