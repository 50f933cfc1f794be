"""The inputs of a network as columns of a sample: which columns make which tensor, and the graph that joins them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa
from onnx import TensorProto, helper

from raymlops.errors import ArtifactError, DataError, shorten
from raymlops.features import FittedColumn, stack_images
from raymlops.onnx_builder import INNER, GraphBuilder, to_value_info
from raymlops.tensors import Batch, TensorSpec
from raymlops.training.saved_models.samples import is_number, to_numbers

_MOST_COLUMNS = 10_000


@dataclasses.dataclass(frozen=True)
class TensorInput:
    """An input of a network: `shape` is that of a row, and `dtype` numpy's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def kind(self) -> Literal["number", "integer", "boolean"]:
        """Of its columns. Raises ArtifactError for texts and complex numbers."""
        kinds: Mapping[str, Any] = {"f": "number", "i": "integer", "u": "integer", "b": "boolean"}
        kind = "f" if self.dtype == "bfloat16" else np.dtype(self.dtype).kind
        if kind not in kinds:
            raise ArtifactError(
                f"Its input {self.name!r} is {self.dtype}; converted are inputs of numbers: keep what encodes texts "
                "outside the model"
            )
        return kinds[kind]  # type: ignore[no-any-return]

    @property
    def width(self) -> int:
        """Columns that it is made of."""
        return self.shape[0] if len(self.shape) == 1 else 1


@dataclasses.dataclass(frozen=True)
class InputColumns:
    """`names` has the columns of each input."""

    inputs: tuple[TensorInput, ...]
    names: tuple[tuple[str, ...], ...]

    @property
    def columns(self) -> tuple[FittedColumn, ...]:
        return tuple(
            FittedColumn(name, "image", "image", shape=one.shape, nullable=False)
            if len(one.shape) > 1
            else FittedColumn(name, "number", one.kind, nullable=one.kind == "number")
            for one, names in zip(self.inputs, self.names, strict=True)
            for name in names
        )

    def read(self, sample: pa.Table) -> Batch:
        """The columns as the file takes them. Raises DataError for values that it does not take."""
        found: Batch = {}
        for column in self.columns:
            values = sample[column.name]
            if column.type == "image":
                found[column.name] = _read_arrays(values, column)
                continue
            if not is_number(values.type):
                raise DataError(
                    f"Column {column.name!r} of the sample is {values.type}; the model takes numbers. Give the columns "
                    "as it was trained on them, encoded"
                )
            numbers = to_numbers(sample, [column.name])[:, 0]
            if column.type != "number" and not (np.isfinite(numbers) & (numbers == np.floor(numbers))).all():
                raise DataError(
                    f"Column {column.name!r} of the sample has missing values or fractions; the model takes whole "
                    "numbers there"
                )
            with np.errstate(over="ignore"):
                found[column.name] = numbers.astype(column.spec.dtype)
        return found

    def join(self, rows: Batch) -> dict[str, npt.NDArray[Any]]:
        """The columns -> the model's inputs, in its types."""
        found = {}
        for one, names in zip(self.inputs, self.names, strict=True):
            parts = [rows[name] for name in names]
            joined = np.stack(parts, axis=1) if len(one.shape) == 1 else parts[0]
            found[one.name] = joined if one.dtype == "bfloat16" else joined.astype(one.dtype)
        return found

    def to_onnx(self) -> onnx.ModelProto:
        """The graph from the columns to `raymlops/NAME` of each input NAME."""
        build, outputs = GraphBuilder(), []
        for one, names in zip(self.inputs, self.names, strict=True):
            kind = (
                TensorProto.BFLOAT16
                if one.dtype == "bfloat16"
                else helper.np_dtype_to_tensor_dtype(np.dtype(one.dtype))
            )
            parts = [build.column(name) if len(one.shape) == 1 else name for name in names]
            build.add("Cast", build.concat(list(parts)), name=f"{INNER}{one.name}", to=kind)
            shape: list[Any] = ["batch", *one.shape]
            outputs.append(helper.make_tensor_value_info(f"{INNER}{one.name}", kind, shape))
        taken = [
            to_value_info(TensorSpec(column.name, column.spec.datatype, (-1, *column.shape)))
            for column in self.columns
        ]
        return build.to_model("columns", taken, outputs)


def match_columns(inputs: Sequence[TensorInput], sample: pa.Table) -> InputColumns:
    """An input of single values is the column of its name; those that are left are made of the other columns in their
    order, if these are as many as needed. Raises DataError, and ArtifactError for an input that is no table."""
    for one in inputs:
        one.kind  # noqa: B018 - raises for texts
        if any(size < 1 for size in one.shape) or one.width > _MOST_COLUMNS:
            raise ArtifactError(
                f"Its input {one.name!r} has rows of shape {one.shape}; every size but the number of rows must be "
                f"fixed, with {_MOST_COLUMNS:,} columns at most: save it with an input of fixed sizes"
            )
    own = {one.name for one in inputs if one.width == 1 and one.name in sample.column_names}
    left = [name for name in sample.column_names if name not in own]
    needed = sum(one.width for one in inputs if one.name not in own)
    if needed and needed != len(left):
        described = ", ".join(f"{one.name} {('rows', *one.shape)}" for one in inputs)
        raise DataError(
            f"The model takes {described}, and the sample has {len(left)} columns where {needed} are needed; give a "
            "sample of the columns that it was trained on alone, in their order"
        )
    names, at = [], 0
    for one in inputs:
        if one.name in own:
            names.append((one.name,))
            continue
        names.append(tuple(left[at : at + one.width]))
        at += one.width
    return InputColumns(tuple(inputs), tuple(names))


def _read_arrays(values: pa.ChunkedArray, column: FittedColumn) -> Any:
    try:
        arrays = stack_images(values)
        arrays = np.asarray(arrays.tolist() if arrays.dtype == object else arrays, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"Column {column.name!r} of the sample: {shorten(str(error))}") from None
    if arrays.shape[1:] != column.shape:
        raise DataError(
            f"Column {column.name!r} of the sample has arrays of shape {arrays.shape[1:]}; the model takes "
            f"{column.shape}"
        )
    return np.ascontiguousarray(arrays)
