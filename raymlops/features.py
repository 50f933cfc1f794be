"""Fitted features: what training learned about each input column and the target. Frozen values with a JSON form.

The encoder graph, the model's contract and all readers of raw rows are built from them.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.conversions.conversion import (
    BEYOND_FP32,
    TYPES,
    Conversion,
    Converted,
    Mask,
    find_beyond_fp32,
)
from raymlops.errors import ArtifactError, DataError, shorten, unknown_name
from raymlops.tensors import Batch, TensorSpec

MISSING_INSTANT = np.iinfo(np.int64).min
"""A missing timestamp in an INT64 tensor: numpy's NaT."""


@dataclasses.dataclass(frozen=True)
class FittedColumn:
    """One raw input column and how the encoder treats it; fields that a kind does not use keep their
    defaults."""

    name: str
    # kind `input`: a column read only by expressions; `means`: a category of which target means are taken
    kind: Literal["number", "category", "timestamp", "image", "input", "means", "text", "encoded"]
    type: Literal["number", "integer", "boolean", "string", "timestamp", "image"]
    nullable: bool = True
    # whether training rows had missing values, so that a missing indicator carries information
    indicator: bool = False
    fill: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    clip: float = 8.0
    edges: tuple[float, ...] = ()  # of the piecewise-linear bins
    values: tuple[
        str | int, ...
    ] = ()  # known categories; the id of values[i] is i + 1, and 0 is unknown or missing
    buckets: int = 0  # places that the values of a category share by their hash; 0: each has its own
    means: tuple[tuple[float, ...], ...] = ()  # of the target among the rows of each of `values`
    prior: tuple[float, ...] = ()  # the same of other values
    ids: tuple[int, ...] = ()  # of a text: the word of which each of `values` is a spelling, from 1
    ngrams: tuple[tuple[int, ...], ...] = ()  # single words, then pairs
    scored: tuple[
        tuple[int, ...], ...
    ] = ()  # of a text: the n-grams whose scores are averaged, single words first
    scores: tuple[tuple[float, ...], ...] = ()  # of each, for each output
    encoder: str = ""  # path of the ONNX file that turns the column into numbers, and its sha256
    digest: str = ""
    centre: tuple[float, ...] = ()  # of each number that these kinds give, in training
    spread: tuple[float, ...] = ()
    parts: tuple[str, ...] = ()
    zone: str = "UTC"
    expression: str = ""  # computed in the graph from other columns; then it is not an input itself
    shape: tuple[int, ...] = ()  # of one image: (height, width) or (height, width, channels)
    scale: float = 1.0
    conversion: Conversion | None = None  # of values as they are read; None if training's had the type

    @property
    def spec(self) -> TensorSpec:
        """The tensor that the model takes for this column."""
        datatype = {"string": "BYTES", "timestamp": "INT64", "number": "FP32", "image": "FP32"}.get(self.type)
        if datatype is None and self.type == "integer":
            datatype = (
                "FP64" if self.nullable else "INT64"
            )  # NaN is the only missing number that JSON and ONNX share
        return TensorSpec(self.name, datatype or ("FP32" if self.nullable else "BOOL"), (-1, *self.shape))

    @property
    def places(self) -> int:
        """Of a category: the ids that its values have, with 0."""
        return 1 + (self.buckets or len(self.values))

    @property
    def spec_takes_missing(self) -> bool:
        """Whether its tensor has a value for a missing one."""
        return self.spec.datatype not in ("INT64", "BOOL") or self.type == "timestamp"

    def to_json(self) -> dict[str, Any]:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        value = {key: item for key, item in _to_dict(self).items() if item != defaults.get(key)}
        return {key: _to_lists(item) for key, item in value.items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "FittedColumn":
        fields: dict[str, Any] = {key: _to_tuples(item) for key, item in value.items()}
        return cls(**_read_conversion(fields))


def _to_lists(value: Any) -> Any:
    return [_to_lists(item) for item in value] if isinstance(value, tuple) else value


def _to_tuples(value: Any) -> Any:
    return tuple(_to_tuples(item) for item in value) if isinstance(value, list) else value


def _to_dict(value: "FittedColumn | FittedTarget") -> dict[str, Any]:
    held = {**dataclasses.asdict(value), "conversion": value.conversion and value.conversion.to_json()}
    if value.conversion is None:  # as before there were any
        del held["conversion"]
    return held


def _read_conversion(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("conversion") is None:
        return fields
    return {**fields, "conversion": Conversion.from_json(fields["conversion"])}


@dataclasses.dataclass(frozen=True)
class FittedTarget:
    """The target. `classes` are in the order of the network's outputs; in a binary task the second is positive."""

    name: str
    task: Literal["binary", "multiclass", "regression"]
    type: Literal["number", "integer", "boolean", "string"]
    classes: tuple[str | int | bool, ...] = ()
    shares: tuple[float, ...] = ()  # frequencies of the classes in training
    threshold: float = 0.5
    mean: float = 0.0
    std: float = 1.0
    conversion: Conversion | None = None
    transform: Literal["none", "log", "power"] = "none"
    """What `mean` and `std` are of: the target, log(1 + target), or its power."""
    exponent: float = 1.0
    low: float = 0.0
    high: float = 0.0
    """Bounds of what is transformed back, a deviation beyond those of training."""

    def standardise(self, values: Any) -> Any:
        """Values of a regression's target as they are learned."""
        return (self.apply(values) - self.mean) / self.std

    def apply(self, values: Any) -> Any:
        """Transformed values. NaN where the transform is not defined."""
        if self.transform == "log":
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.log1p(np.asarray(values, dtype=np.float64))
        if self.transform == "power":
            return np.sign(values) * np.abs(values) ** self.exponent
        return values

    def to_own_unit(self, values: Any) -> Any:
        """Standardised values of a regression in the target's own unit; the inverse of `standardise`."""
        values = values * self.std + self.mean
        if self.transform == "none":
            return values
        values = np.clip(values, self.low, self.high)
        if self.transform == "log":
            return np.expm1(values)
        return np.sign(values) * np.abs(values) ** (1 / self.exponent)

    @property
    def outputs(self) -> int:
        """Outputs of the network per row."""
        return len(self.classes) if self.task == "multiclass" else 1


@dataclasses.dataclass(frozen=True)
class FittedFeatures:
    """All input columns, in the order of the model's inputs, and the target."""

    columns: tuple[FittedColumn, ...]
    target: FittedTarget

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(column.spec for column in self.raw)

    @property
    def raw(self) -> tuple[FittedColumn, ...]:
        """The columns that each row must have."""
        return tuple(column for column in self.columns if not column.expression)

    def of_kind(self, *kinds: str) -> tuple[FittedColumn, ...]:
        return tuple(column for column in self.columns if column.kind in kinds)

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": [column.to_json() for column in self.columns],
            "target": {**_to_dict(self.target), "classes": list(self.target.classes)},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "FittedFeatures":
        target: dict[str, Any] = {
            key: tuple(item) if isinstance(item, list) else item for key, item in value["target"].items()
        }
        return cls(
            tuple(FittedColumn.from_json(column) for column in value["columns"]),
            FittedTarget(**_read_conversion(target)),
        )


@dataclasses.dataclass(frozen=True)
class Packing:
    """Widths of the packed tensors, from which a network is built."""

    numeric: int = 0
    categories: tuple[int, ...] = ()  # number of values of each category column, unknown included
    image: tuple[int, ...] = ()  # (channels, height, width)
    plain: int = 0
    numeric_of: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    """The feature that rises with each of the first `numeric` numbers; empty for those with which none does."""
    plain_of: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def only(self, tensors: Collection[str]) -> "Packing":
        """The widths of these tensors, and nothing of the others."""
        kept = {
            "numeric": self.numeric,
            "category": self.categories,
            "image": self.image,
            "plain": self.plain,
        }
        found: dict[str, Any] = {name: width for name, width in kept.items() if name in tensors}
        return Packing(
            found.get("numeric", 0),
            found.get("category", ()),
            found.get("image", ()),
            found.get("plain", 0),
            self.numeric_of,
            self.plain_of,
        )


NETWORK_TENSORS = frozenset(("numeric", "category", "image"))
"""The packed tensors that networks read."""
TREE_TENSORS = frozenset(("plain", "category"))
"""The packed tensors that trees read, to which scale means nothing and missing values something."""


VECTORS = ("means", "text", "encoded")
"""Kinds of columns that become several numbers: behind the numbers of the other columns, in all packed tensors of
numbers."""


def name_columns(features: FittedFeatures) -> tuple[str, ...]:
    """Names of the plain numbers of a packed row, and then of its categories."""
    names = [column.name for column in features.of_kind("number")]
    names += [f"{column.name} ({part})" for column in features.of_kind("timestamp") for part in column.parts]
    names += [
        f"{column.name} ({place})"
        for column in features.of_kind(*VECTORS)
        for place in range(len(column.centre))
    ]
    return (*names, *(column.name for column in features.of_kind("category")))


def packing_of(features: FittedFeatures) -> Packing:
    """Widths of the packed tensors of these features."""
    numbers, plain = features.of_kind("number"), len(features.of_kind("number"))
    width = sum(1 + column.indicator + max(0, len(column.edges) - 1) for column in numbers)
    for column in features.of_kind("timestamp"):
        width += sum(1 if part == "elapsed" else 2 for part in column.parts) + column.indicator
        plain += len(column.parts)
    vectors = sum(len(column.centre) for column in features.of_kind(*VECTORS))
    width, plain = width + vectors, plain + vectors
    images = features.of_kind("image")
    image: tuple[int, ...] = ()
    if images:
        shape = images[0].shape
        channels = sum(column.shape[2] if len(column.shape) == 3 else 1 for column in images)
        image = (channels, shape[0], shape[1])
    categories = tuple(column.places for column in features.of_kind("category"))
    names = tuple(column.name for column in numbers)
    bins = tuple(column.name for column in numbers for _ in column.edges[1:])
    return Packing(width, categories, image, plain, (*names, *bins), names)


def table_to_batch(table: pa.Table, features: FittedFeatures) -> Batch:
    """Raw columns of an arrow table as the model's input tensors.

    Raises DataError if a column is missing or does not convert.
    """
    return {column.name: column_to_tensor(table, column) for column in features.raw}


def read_conversion(entry: Mapping[str, Any]) -> Conversion | None:
    """Of a column or target in a model's contract; None for models that have none. Raises ArtifactError."""
    held = entry.get("conversion")
    if held is None:
        return None
    try:
        return Conversion.from_json(held)
    except (TypeError, ValueError, AttributeError):
        raise ArtifactError(
            f"The conversion of {entry.get('name')!r} in the model's contract is {shorten(repr(held))}, which this "
            "version of raymlops does not know; install the version that made the model"
        ) from None


@dataclasses.dataclass(frozen=True)
class Unconverted:
    """Values of a column that could not become a model's input."""

    column: str
    rule: str
    rows: "np.ndarray[Any, np.dtype[np.bool_]]"


def convert_columns(table: pa.Table, columns: Sequence[FittedColumn]) -> tuple[pa.Table, list[Unconverted]]:
    """The table with these columns in their types, and what could not be converted, which is null. Columns that the
    table lacks are left to `column_to_tensor`."""
    failed: list[Unconverted] = []
    if not columns:
        return table, failed
    values = dict(zip(table.column_names, table.columns, strict=True))
    for column in columns:
        if column.name not in values or column.type == "image":
            continue
        converted = convert_column(table[column.name], column)
        if converted.failed.any():
            failed.append(Unconverted(column.name, str(conversion_of(column)), converted.failed))
        beyond = find_beyond(converted.values, column)
        if beyond.any():
            failed.append(Unconverted(column.name, BEYOND_FP32, beyond))
        missing = np.asarray(converted.values.is_null()) & ~converted.failed
        if not column.spec_takes_missing and missing.any():
            failed.append(Unconverted(column.name, "missing values, of which training had none", missing))
        values[column.name] = converted.values
    return pa.table(values), failed


def conversion_of(column: FittedColumn) -> Conversion:
    """As trained; for older models, and columns that came in their type, the common forms of that type."""
    if column.type == "image":
        raise ValueError("images are not converted")
    return column.conversion or Conversion(column.type)


def convert_column(values: pa.ChunkedArray, column: FittedColumn) -> Converted:
    """In the column's type; numbers in any arrow type of numbers."""
    rule, kind = conversion_of(column), values.type
    if not rule.normalises and _is_ready(kind, column.type):
        return Converted(values, np.zeros(len(values), dtype=bool))
    return rule.apply(values)


def find_beyond(values: pa.ChunkedArray, column: FittedColumn) -> Mask:
    """True for finite numbers that would be infinite in the column's tensor, and so be taken for missing ones."""
    return find_beyond_fp32(values) if column.type == "number" else np.zeros(len(values), dtype=bool)


def _is_ready(kind: pa.DataType, wanted: str) -> bool:
    """Whether values of an arrow type become a tensor as they are."""
    if wanted == "number":
        return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))
    if wanted == "integer":
        return bool(pa.types.is_signed_integer(kind) or pa.types.is_boolean(kind))
    return bool(kind == TYPES[wanted])


def column_to_tensor(table: pa.Table, column: FittedColumn) -> Any:
    """One raw column as the tensor of its spec; missing values are encoded as its type requires.

    Raises DataError if it is missing, or a value does not convert.
    """
    if column.name not in table.column_names:
        raise DataError(unknown_name("column", column.name, table.column_names) + "; the model needs it")
    values = table[column.name]
    if column.type != "image":
        converted = convert_column(values, column)
        _require_all(values, column, str(conversion_of(column)), converted.failed)
        _require_all(values, column, BEYOND_FP32, find_beyond(converted.values, column))
        values = converted.values
    try:
        return to_tensor(values, column)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(
            f"Column {column.name!r} is {table[column.name].type}; the model takes {column.spec}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from None


def _require_all(values: pa.ChunkedArray, column: FittedColumn, rule: str, failed: Mask) -> None:
    """Raises DataError if some failed."""
    if not failed.any():
        return
    rows = np.flatnonzero(failed)
    samples = dict.fromkeys(str(value)[:40] for value in values.take(pa.array(rows[:20])).to_pylist())
    raise DataError(
        f"Column {column.name!r} is {values.type}; the model takes {column.spec}: {len(rows):,} of its values "
        f"do not convert by {rule!r}, such as {', '.join(list(samples)[:3])} (the first is row {rows[0] + 1:,}); "
        f"set contract.columns.{column.name} to convert them or to leave such rows out"
    )


def to_tensor(values: pa.ChunkedArray, column: FittedColumn) -> Any:
    """Values of the column's type as its tensor. Raises ValueError if some are missing and it cannot say so."""
    return _PACK[column.type](values, column)


def _to_strings(values: pa.ChunkedArray, column: FittedColumn) -> Any:
    return pc.fill_null(values, "").to_numpy().astype(object)


def _to_numbers(values: pa.ChunkedArray, column: FittedColumn) -> Any:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if not column.spec_takes_missing and values.null_count:
        raise ValueError(f"it has {values.null_count} nulls, and training had none; filter them first")
    return np.ascontiguousarray(values.to_numpy(), dtype=column.spec.dtype)


def _to_instants(values: pa.ChunkedArray, column: FittedColumn) -> Any:
    return pc.fill_null(values.cast(pa.int64()), MISSING_INSTANT).to_numpy()


def _to_images(values: pa.ChunkedArray, column: FittedColumn) -> Any:
    images = stack_images(values)
    if images.shape[1:] != column.shape:
        raise ValueError(f"its images are {images.shape[1:]}, and those of training {column.shape}")
    return np.ascontiguousarray(images, dtype=np.float32)


def stack_images(values: pa.ChunkedArray) -> Any:
    """A column of tensors as one array (rows, *shape). Raises ValueError if the shapes differ."""
    array = values.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if hasattr(array, "to_numpy_ndarray"):  # a tensor extension type of Ray or arrow
        return array.to_numpy_ndarray()
    return np.stack([np.asarray(image) for image in array.to_pylist()])


_PACK = {
    "string": _to_strings,
    "number": _to_numbers,
    "integer": _to_numbers,
    "boolean": _to_numbers,
    "timestamp": _to_instants,
    "image": _to_images,
}
COLUMN_TYPES = frozenset(_PACK)
"""Types of columns in contracts of our models; files of another origin may have any."""
