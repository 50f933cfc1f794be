"""Columns of a table as arrays of numbers and texts, without a model that says what it takes: what they are in the file
decides, and in later files what they were in the first."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.conversions.conversion import Conversion
from raymlops.tensors import Batch

_TIME = Conversion("timestamp")
_LOOKED = 200
"""Texts of a column that are looked at, whether all are times."""


def read_values(table: pa.Table, kinds: Mapping[str, str] | None = None) -> Batch:
    """Numbers as float64 with NaN for missing ones, texts with "", lists of equally many numbers as (rows, numbers);
    not times, nor what has no one value. `kinds` are `number` or `category` by name, as columns were before: what does
    not convert is missing."""
    found: Batch = {}
    for name in table.column_names:
        wanted = None if kinds is None else kinds.get(name)
        values = _read(table[name], wanted)
        if values is not None:
            found[name] = values
    return found


def explain_values(table: pa.Table) -> dict[str, str]:
    """Why columns are not watched."""
    return {
        name: "it tells the time, which goes on" if is_time(table[name]) else f"it holds {table[name].type}"
        for name in table.column_names
        if _read(table[name], None) is None
    }


def find_time_column(table: pa.Table) -> str:
    """The first column that is a time in each row; empty if there is none."""
    for name in table.column_names:
        if is_time(table[name]) and not table[name].null_count:
            return str(name)
    return ""


def is_time(values: pa.ChunkedArray) -> bool:
    """Of a type of times, or texts that all are times."""
    kind = values.type
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        return True
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return False
    some = values.slice(0, _LOOKED).drop_null()
    return len(some) > 0 and not _TIME.apply(some).failed.any()


def _read(values: pa.ChunkedArray, wanted: str | None) -> npt.NDArray[np.generic] | None:
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if pa.types.is_boolean(kind):
        values, is_number = values.cast(pa.int8()), True
    if wanted == "category" and is_number:
        return np.array([_name(value) for value in values.to_pylist()], object)
    if is_number:
        return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if wanted == "number":
            converted = Conversion("number").apply(values.cast(pa.string())).values
            return np.asarray(converted.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
        if wanted is None and is_time(values):
            return None
        return np.array([value or "" for value in values.to_pylist()], object)
    if pa.types.is_null(kind):
        missing = np.full(len(values), np.nan)
        return np.full(len(values), "", object) if wanted == "category" else missing
    return _read_vectors(values)


def _name(value: object) -> str:
    return (
        "" if value is None else str(int(value) if isinstance(value, float) and value.is_integer() else value)
    )


def _read_vectors(values: pa.ChunkedArray) -> npt.NDArray[np.generic] | None:
    """Of lists of equally many numbers, and of tensors of one shape."""
    kind = values.type
    shape: tuple[int, ...] = (-1,)
    joined = values.combine_chunks()
    if isinstance(kind, pa.FixedShapeTensorType):
        shape, joined, kind = tuple(kind.shape), joined.storage, kind.storage_type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not len(joined) or joined.null_count:
        return None
    inner = kind.value_type
    if not (pa.types.is_integer(inner) or pa.types.is_floating(inner)):
        return None
    flat = np.asarray(joined.flatten().to_numpy(zero_copy_only=False), np.float64)
    lengths = np.asarray(pa.compute.list_value_length(joined).to_numpy(zero_copy_only=False))
    if (lengths != lengths[0]).any() or not lengths[0]:
        return None
    return flat.reshape(len(joined), *shape)
