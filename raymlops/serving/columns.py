"""From what people write (JSON lists, ISO times, null) to the arrays that a model takes, one column or tensor
at a time."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import InputError
from raymlops.tensors import DATATYPES, Signature, TensorSpec

Array = npt.NDArray[Any]
ELEMENTS = "elements"
"""Kind of a tensor whose first axis is the elements of all rows, which a second tensor counts."""
NO_TIME = np.iinfo(np.int64).min
"""The missing timestamp; others are milliseconds since 1970-01-01 UTC."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A model input and what its contract says of it; `kind` is empty for a model of another origin."""

    spec: TensorSpec
    kind: str = ""

    @property
    def takes_missing(self) -> bool:
        """True if null has a meaning: NaN, the empty string, or no time."""
        return bool(self.kind) and (
            self.spec.datatype in ("FP32", "FP64", "BYTES") or self.kind == "timestamp"
        )


def read_columns(signature: Signature, contract: Mapping[str, Any]) -> dict[str, Column]:
    kinds = {column["name"]: column["kind"] for column in contract.get("columns", ())}
    return {spec.name: Column(spec, kinds.get(spec.name, "")) for spec in signature.inputs}


def to_array(data: Any, column: Column) -> Array:
    """A flat or nested JSON list as an array of the column's datatype, in whatever shape it came.

    Raises InputError: values of another type are refused, never rounded, wrapped or parsed from text.
    """
    spec = column.spec
    if column.kind == "timestamp":
        return _to_times(data, spec)
    if spec.datatype == "BYTES":
        return _to_strings(data, column)
    try:
        array = np.array(data)
    except ValueError:
        raise InputError(f"Input {spec.name!r}: the lists of its data have unequal lengths") from None
    want = spec.dtype
    if array.dtype == object and column.takes_missing:
        array = _fill_missing(data, column)
    if array.size == 0:
        return array.astype(want)
    if array.dtype.kind not in _KINDS[want.kind]:
        raise InputError(f"Input {spec.name!r}: its data must be {_WORDS[want.kind]}, got {_show(data)}")
    if want.kind in "iu" and array.dtype != want:
        limits = np.iinfo(want)
        if array.min() < limits.min or array.max() > limits.max:
            raise InputError(f"Input {spec.name!r}: a value is outside {spec.datatype}, got {_show(data)}")
    with np.errstate(over="ignore"):
        return array if array.dtype == want else array.astype(want)


_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
_WORDS = {"f": "numbers", "i": "whole numbers", "u": "whole numbers, none negative", "b": "true or false"}


def _fill_missing(data: Any, column: Column) -> Array:
    """Numbers with null in between as floats with NaN."""
    flat = np.array(data, dtype=object)
    values = flat.ravel()
    if not all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
        raise InputError(f"Input {column.spec.name!r}: its data must be numbers or null, got {_show(data)}")
    try:
        filled = [np.nan if v is None else float(v) for v in values]
    except OverflowError:
        raise InputError(f"Input {column.spec.name!r}: a number is too large, got {_show(data)}") from None
    return np.array(filled).reshape(flat.shape)


def _to_strings(data: Any, column: Column) -> Array:
    array = np.array(data, dtype=object)
    flat = array.ravel()
    for index, value in enumerate(flat):
        if isinstance(value, str):
            if "\ud800" <= max(value, default="") <= "\udfff" and not _encodes(value):
                raise InputError(f"Input {column.spec.name!r}: a string is not valid Unicode")
        elif value is None and column.takes_missing:
            flat[index] = ""
        else:
            raise InputError(f"Input {column.spec.name!r}: its data must be strings, got {_show(data)}")
    return flat.reshape(array.shape)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_times(data: Any, spec: TensorSpec) -> Array:
    array = np.array(data, dtype=object)
    return np.array([_to_milliseconds(value, spec) for value in array.ravel()], np.int64).reshape(array.shape)


def _to_milliseconds(value: Any, spec: TensorSpec) -> int:
    if value is None or value == "":
        return int(NO_TIME)
    if isinstance(value, int) and not isinstance(value, bool) and NO_TIME <= value <= -NO_TIME - 1:
        return value
    if isinstance(value, str):
        try:
            time = datetime.datetime.fromisoformat(value)
            time = time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time
            return (time - _EPOCH) // datetime.timedelta(milliseconds=1)
        except (ValueError, OverflowError):
            pass
    raise InputError(
        f"Input {spec.name!r} is a timestamp: write it as 2013-07-01T12:00:00Z or as milliseconds since "
        f"1970, "
        f"got {_show(value)}"
    )


def decode_strings(array: Array, name: str) -> Array:
    """BYTES that came as bytes as text, which is what ONNX Runtime takes. Raises InputError unless UTF-8."""
    flat = array.ravel()
    try:
        decoded = [value.decode() if isinstance(value, bytes) else value for value in flat]
    except UnicodeDecodeError as error:
        raise InputError(f"Input {name!r}: a string is not valid UTF-8: {error}") from None
    result = np.empty(len(decoded), dtype=object)
    result[:] = decoded
    return result.reshape(array.shape)


def convert(array: Array, datatype: str, column: Column) -> Array:
    """An array that came as `datatype`, in the column's own; only what loses nothing is converted."""
    spec = column.spec
    if datatype == spec.datatype:
        return decode_strings(array, spec.name) if datatype == "BYTES" else array
    if column.kind == "timestamp" and datatype == "BYTES":
        return _to_times(decode_strings(array, spec.name), spec)
    if (
        datatype != "BYTES"
        and spec.datatype != "BYTES"
        and np.can_cast(DATATYPES[datatype].numpy, spec.dtype)
    ):
        return array.astype(spec.dtype)
    raise InputError(f"Input {spec.name!r} is {datatype}{list(array.shape)}, but the model takes {spec}")


def check_shape(array: Array, column: Column) -> Array:
    if not column.spec.accepts(array.shape):
        raise InputError(
            f"Input {column.spec.name!r} has shape {list(array.shape)}, but the model takes {column.spec}"
        )
    return array


def check_rows(batch: Mapping[str, Array], columns: Mapping[str, Column]) -> int:
    """Rows of a batch whose inputs all start with a free dimension. Raises InputError when they differ."""
    rows = {
        name: len(array)
        for name, array in batch.items()
        if array.ndim and columns[name].spec.shape[:1] == (-1,) and columns[name].kind != ELEMENTS
    }
    counts: Sequence[int] = sorted(set(rows.values()))
    if len(counts) > 1:
        raise InputError(f"The inputs have different numbers of rows: {rows}; send one value a row in each")
    return counts[0] if counts else 1


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
