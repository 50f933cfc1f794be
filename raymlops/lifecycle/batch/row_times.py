"""The times of rows, from a column of a table. Parses what the contract says, and what Arrow knows."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.conversions.conversion import Conversion
from raymlops.errors import DataError, unknown_name

Times = npt.NDArray[np.datetime64]


def require_times(table: pa.Table, column: str) -> Times:
    """UTC. Raises DataError for a column that is absent, or that has no times in each row."""
    if column not in table.column_names:
        raise DataError(unknown_name("column", column, table.column_names))
    values = table[column]
    try:
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            values = values.cast(pa.timestamp("us"))
        times = values.cast(pa.timestamp("us"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"Column {column!r} is {table[column].type}, not a time: {error}") from None
    if times.null_count:
        raise DataError(
            f"Column {column!r} has {times.null_count:,} rows without a time; leave them out with `where`"
        )
    return _to_numpy(times)


def read_times(table: pa.Table, column: str, conversion: Conversion | None = None) -> Times | None:
    """UTC, by the contract's conversion if it has one; None if the column is absent or has no times in each row, such
    as an integer that only orders rows."""
    if column not in table.column_names:
        return None
    values = table[column]
    is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if conversion is not None and conversion.type == "timestamp":
        converted = conversion.apply(values)
        values = converted.values
    elif is_number:
        return None
    try:
        times = values.cast(pa.timestamp("us", "UTC") if _has_zone(values.type) else pa.timestamp("us"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return None if times.null_count else _to_numpy(times)


def _has_zone(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz is not None


def _to_numpy(times: pa.ChunkedArray) -> Times:
    return np.asarray(times.to_numpy(zero_copy_only=False), "datetime64[us]")
