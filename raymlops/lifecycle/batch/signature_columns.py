"""Arrow columns -> the tensors of a model without a contract on its columns: only its signature is known.

One value per row, nested lists, and tensors of Ray or arrow are accepted; nothing is rounded or cut to fit a
datatype.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.errors import DataError, unknown_name
from raymlops.features import stack_images
from raymlops.tensors import Array, TensorSpec

_ARROW = {
    "BOOL": pa.bool_(), "UINT8": pa.uint8(), "UINT16": pa.uint16(), "UINT32": pa.uint32(), "UINT64": pa.uint64(),
    "INT8": pa.int8(), "INT16": pa.int16(), "INT32": pa.int32(), "INT64": pa.int64(), "FP16": pa.float32(),
    "FP32": pa.float32(), "FP64": pa.float64(), "BYTES": pa.string(),
}  # fmt: skip


def read_column(table: pa.Table, spec: TensorSpec) -> Array:
    """The column of the tensor's name, as (rows, *shape). Raises DataError."""
    if spec.name not in table.column_names:
        raise DataError(unknown_name("column", spec.name, table.column_names) + "; the model needs it")
    column = table[spec.name]
    try:
        array = _to_array(column, spec)
        return _fit(array, spec)
    except (pa.ArrowException, ValueError, TypeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise DataError(f"Column {spec.name!r} is {column.type}; the model takes {spec}: {cause}") from None


def _to_array(column: pa.ChunkedArray, spec: TensorSpec) -> Array:
    if isinstance(column.type, pa.ExtensionType):
        return _cast_numpy(np.asarray(stack_images(column)), spec)
    values = column.combine_chunks()
    values = pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
    shape = [len(values)]
    while (
        pa.types.is_list(values.type)
        or pa.types.is_large_list(values.type)
        or pa.types.is_fixed_size_list(values.type)
    ):
        if values.null_count:
            raise ValueError(f"it has {values.null_count} rows or lists that are null")
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) > 1:
            raise ValueError(f"its lists have {len(lengths)} lengths, from {min(lengths)} to {max(lengths)}")
        shape.append(lengths[0] if lengths else 0)
        values = values.flatten()
    is_bytes = pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)
    if is_bytes and spec.datatype != "BYTES":
        return _from_bytes(values, spec)
    return _cast_arrow(values, spec).reshape(shape)


def _cast_arrow(values: pa.Array, spec: TensorSpec) -> Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_temporal(values.type):
        raise ValueError(
            "the model does not say in what unit it counts time; convert the column to that number first"
        )
    if spec.datatype == "BYTES":
        if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
            return np.asarray(pc.fill_null(values, b"").to_numpy(zero_copy_only=False), dtype=object)
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            raise ValueError("it holds no texts; convert it first")
        return np.asarray(pc.fill_null(values, "").to_numpy(zero_copy_only=False), dtype=object)
    if values.null_count and spec.dtype.kind != "f":
        raise ValueError(
            f"it has {values.null_count} nulls, which {spec.datatype} cannot hold; fill or filter them"
        )
    if pa.types.is_boolean(values.type) and spec.datatype != "BOOL":
        values = values.cast(pa.uint8())
    if spec.datatype == "BOOL" and not pa.types.is_boolean(values.type):
        raise ValueError("it holds no booleans; convert it first")
    if pa.types.is_floating(values.type) and spec.dtype.kind in "iu" and pc.any(pc.is_nan(values)).as_py():
        raise ValueError(f"it has NaN, which {spec.datatype} cannot hold; fill or filter them")
    cast = values.cast(_ARROW[spec.datatype])
    return np.ascontiguousarray(cast.to_numpy(zero_copy_only=False), dtype=spec.dtype)


def _from_bytes(values: pa.Array, spec: TensorSpec) -> Array:
    """The raw numbers, little-endian, if the model declares their shape; encoded images do not count."""
    inner = spec.shape[1:]
    size = int(np.prod(inner)) * spec.dtype.itemsize
    rows = values.to_pylist()
    if -1 in inner or any(row is None or len(row) != size for row in rows):
        raise ValueError(
            f"its bytes are not the numbers of {spec.datatype}{list(inner)}; give nested lists or tensors, as the "
            "reader `images` does of image files"
        )
    return np.frombuffer(b"".join(rows), spec.dtype.newbyteorder("<")).astype(spec.dtype).reshape(-1, *inner)


def _cast_numpy(array: Array, spec: TensorSpec) -> Array:
    if array.dtype == spec.dtype:
        return np.ascontiguousarray(array)
    if spec.dtype.kind == "f" and array.dtype.kind in "iufb":
        return np.ascontiguousarray(array, dtype=spec.dtype)
    cast = array.astype(spec.dtype)
    if array.dtype.kind not in "iufb" or not np.array_equal(cast, array):
        raise ValueError(f"its tensors are {array.dtype}, and some values do not fit {spec.datatype}")
    return cast


def _fit(array: Array, spec: TensorSpec) -> Array:
    """The same values in the signature's shape: one value per row as a column, a flat list as an image."""
    if spec.accepts(array.shape):
        return array
    inner = spec.shape[1:]
    if inner.count(-1) <= 1 and 0 not in inner and spec.shape[:1] == (-1,):
        fitted = (
            array.reshape(len(array), *inner) if len(array) else array.reshape(0, *(max(s, 1) for s in inner))
        )
        if spec.accepts(fitted.shape):
            return fitted
    raise ValueError(f"its rows have shape {list(array.shape[1:])}")
