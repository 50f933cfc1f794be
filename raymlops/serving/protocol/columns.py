"""Converts what people write (JSON lists, ISO times, null) to a model's arrays, one column or tensor at a time."""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.conversions.conversion import MISSING_TEXTS, Conversion
from raymlops.conversions.instants import parse_instant
from raymlops.errors import InputError
from raymlops.features import MISSING_INSTANT, FittedColumn, find_beyond, read_conversion, to_tensor
from raymlops.serving.protocol.request_limits import show
from raymlops.tensors import DATATYPES, ELEMENTS, Array, Signature, TensorSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A model input and its contract; `kind` is empty for a model of another origin. An `optional` one has a default
    value in the model, and a request may omit it."""

    spec: TensorSpec
    kind: str = ""
    optional: bool = False
    conversion: Conversion | None = None
    """How values are converted that are written as in the table of training."""

    @property
    def converts_all(self) -> bool:
        """Whether values that JSON has a type for are converted, too: numbers that are times of another unit."""
        rule = self.conversion
        return rule is not None and (bool(rule.format) or rule.normalises)

    @property
    def takes_missing(self) -> bool:
        """True if null has a meaning: NaN, the empty string, or no time."""
        return bool(self.kind) and (
            self.spec.datatype in ("FP32", "FP64", "BYTES") or self.kind == "timestamp"
        )


def read_columns(
    signature: Signature, contract: Mapping[str, Any], optional: Iterable[TensorSpec] = ()
) -> dict[str, Column]:
    """By name, required ones first."""
    entries = {column["name"]: column for column in contract.get("columns", ())}
    columns = {spec.name: _to_column(spec, entries.get(spec.name, {})) for spec in signature.inputs}
    return columns | {spec.name: Column(spec, optional=True) for spec in optional}


def _to_column(spec: TensorSpec, entry: Mapping[str, Any]) -> Column:
    return Column(spec, entry.get("kind", ""), conversion=read_conversion(entry))


def to_array(data: list[Any], column: Column) -> Array:
    """A flat or nested JSON list as an array of the column's datatype, in the list's own shape.

    Raises InputError: values of another type are refused, never rounded, wrapped or parsed from text; so are those
    that overflow a float, if the caller sets np.errstate(over="raise"), which costs more than the rest.
    """
    kinds = set(map(type, data))
    if list in kinds:
        return _nested(data, column)
    spec = column.spec
    if column.conversion is not None and (column.converts_all or kinds & _other_types(column)):
        return convert_values(data, column)
    if column.kind == "timestamp":
        array = _to_times(data, kinds, spec)
        if (
            column.conversion is not None
            and array.size
            and (array.max() > _LATEST or array.min() < _EARLIEST)
        ):
            return convert_values(data, column)  # which refuses it, as it does in a table
        return array
    if spec.datatype == "BYTES":
        return _to_strings(data, kinds, column)
    want = spec.dtype
    allowed = _TYPES[want.kind] | _BOOLEAN if column.kind == "boolean" else _TYPES[want.kind]
    if not kinds <= allowed and not (column.takes_missing and kinds <= allowed | {NoneType}):
        if want.kind in "iu" and kinds <= {int, float} and all(map(is_whole, data)):
            return to_array(
                list(map(int, data)), column
            )  # JSON has one kind of number: 2.0 is also an integer
        words = _WORDS["i" if column.kind == "integer" else want.kind]
        or_null = " or null" if column.takes_missing else ""
        raise InputError(f"Input {spec.name!r}: its data must be {words}{or_null}, got {show(data)}")
    try:
        array = np.array(data, want)
    except (OverflowError, FloatingPointError):
        raise _outside(spec, data) from None
    return check_whole(array, column) if column.kind == "integer" else array


def _outside(spec: TensorSpec, value: Any) -> InputError:
    return InputError(f"Input {spec.name!r}: a value is outside {spec.datatype}, got {show(value)}")


def _other_types(column: Column) -> set[type]:
    """Of values of JSON that a column takes only by its conversion."""
    return _CONVERTED.get(column.conversion.type, set()) if column.conversion is not None else set()


_CONVERTED: Mapping[str, set[type]] = {
    "number": {str, bool},
    "integer": {str, bool, float},
    "boolean": {str, int, float, bool},
    "string": {int, float, bool},
    "timestamp": {float},
}


def convert_values(data: list[Any], column: Column) -> Array:
    """A flat list by the column's conversion, which is training's. Raises InputError for a value that it does not
    convert."""
    rule, spec = column.conversion, column.spec
    assert rule is not None
    places: dict[type, list[int]] = {}
    for place, value in enumerate(data):
        places.setdefault(type(value), []).append(place)
    if not data:
        return np.empty(0, spec.dtype)
    parts: list[pa.Array] = []
    nullable = spec.datatype not in ("INT64", "BOOL")
    fitted = FittedColumn(spec.name, "input", rule.type, nullable=nullable)
    for kind, found in places.items():
        given = [data[place] for place in found]
        try:
            converted = rule.apply(pa.chunked_array([pa.array(given, _ARROW.get(kind))]))
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError):
            raise InputError(f"Input {spec.name!r} takes values of {rule}, got {show(given)}") from None
        if converted.failed.any():
            wrong = given[int(np.argmax(converted.failed))]
            raise InputError(f"Input {spec.name!r} takes values of {rule}, got {show(wrong)}")
        beyond = find_beyond(converted.values, fitted)
        if beyond.any():
            raise _outside(spec, given[int(np.argmax(beyond))])
        parts += converted.values.chunks
    order = np.argsort(np.concatenate([np.array(found) for found in places.values()]))
    try:
        return np.asarray(to_tensor(pa.chunked_array(parts).take(pa.array(order)), fitted), dtype=spec.dtype)
    except ValueError:
        raise InputError(f"Input {spec.name!r}: its data must not be missing, got {show(data)}") from None


_ARROW = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64(), type(None): pa.null()}


_EARLIEST, _LATEST = -62_135_596_800_000, 253_402_300_799_999
_EXACT = 2.0**53
"""Above it, a float may stand for another integer, such as an integer of over 64 bits that the JSON parser made a
float."""


def is_whole(value: float) -> bool:
    """Whether a JSON number stands for exactly one integer."""
    return type(value) is int or (value.is_integer() and abs(value) <= _EXACT)


NoneType = type(None)
_TYPES: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}
_BOOLEAN = {bool}
_WORDS = {"f": "numbers", "i": "whole numbers", "u": "whole numbers, none negative", "b": "true or false"}


def _nested(data: list[Any], column: Column) -> Array:
    """Flattens lists of lists level by level: numpy would make every string as long as the longest."""
    shape = [len(data)]
    while data and isinstance(data[0], list):
        lengths = set(map(len, data)) if set(map(type, data)) == {list} else set()
        if len(lengths) != 1 or len(shape) > 31:
            raise InputError(f"Input {column.spec.name!r}: the lists of its data have unequal lengths")
        shape += lengths
        data = list(itertools.chain.from_iterable(data))
    if list in set(map(type, data)):
        raise InputError(f"Input {column.spec.name!r}: the lists of its data have unequal lengths")
    return to_array(data, column).reshape(shape)


def check_whole(array: Array, column: Column) -> Array:
    """Integers that may be missing are floats here; a fraction among them would be cut off silently."""
    if column.kind == "integer" and array.dtype.kind == "f" and not (np.floor(array) == array).all():
        fractions = array[np.isfinite(array) & (array != np.floor(array))]
        if fractions.size:
            raise InputError(
                f"Input {column.spec.name!r}: its data must be whole numbers or null, got {fractions[0]}"
            )
    return array


def are_native(array: Array, column: Column) -> bool:
    """Whether the column's conversion leaves these numbers, of the datatype of the model's input, as they are."""
    kind = column.conversion.type if column.conversion is not None else ""
    if kind == "boolean" and array.dtype.kind == "f":
        return bool(((array == 0) | (array == 1) | np.isnan(array)).all())
    if kind == "integer" and array.dtype.kind == "f":
        return not (np.abs(array) > _EXACT).any()
    if kind == "timestamp":
        return bool((((array >= _EARLIEST) & (array <= _LATEST)) | (array == MISSING_INSTANT)).all())
    return True


def _to_strings(data: list[Any], kinds: set[type], column: Column) -> Array:
    if not kinds <= {str}:
        if not (column.takes_missing and kinds <= {str, NoneType}):
            raise InputError(f"Input {column.spec.name!r}: its data must be strings, got {show(data)}")
        data = ["" if value is None else value for value in data]
    if not _encodes("".join(data)):
        raise InputError(f"Input {column.spec.name!r}: a string is not valid Unicode")
    return np.array(data, dtype=object)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_times(data: list[Any], kinds: set[type], spec: TensorSpec) -> Array:
    if kinds == {int}:
        try:
            return np.array(data, np.int64)
        except OverflowError:
            pass  # reported below, with the value
    return np.array([_to_milliseconds(value, spec) for value in data], np.int64)


def _to_milliseconds(value: Any, spec: TensorSpec) -> int:
    if value is None or value == "" or value == "NaT":  # how pandas writes a missing time
        return int(MISSING_INSTANT)
    if isinstance(value, float) and is_whole(value):  # milliseconds in a column with missing values
        value = int(value)
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and MISSING_INSTANT <= value <= -MISSING_INSTANT - 1
    ):
        return value
    if isinstance(value, str):
        try:
            return parse_instant(value)
        except (ValueError, OverflowError):
            if (other := _read_unusual(value)) is not None:
                return other
    raise InputError(
        f"Input {spec.name!r} is a timestamp: write it as 2013-07-01T12:00:00Z or as milliseconds since 1970, "
        f"got {show(value)}"
    )


def _read_unusual(text: str) -> int | None:
    """A text as tables hold it: one that stands for a missing time, or has blanks around it."""
    plain = text.strip()
    if plain in MISSING_TEXTS:
        return int(MISSING_INSTANT)
    try:
        return parse_instant(plain) if len(plain) < len(text) else None
    except (ValueError, OverflowError):
        return None


def decode_strings(array: Array, name: str) -> Array:
    """BYTES as text, which ONNX Runtime takes. Raises InputError unless UTF-8."""
    flat = array.ravel()
    try:
        decoded = [value.decode() if isinstance(value, bytes) else value for value in flat]
    except UnicodeDecodeError as error:
        raise InputError(f"Input {name!r}: a string is not valid UTF-8: {error}") from None
    result = np.empty(len(decoded), dtype=object)
    result[:] = decoded
    return result.reshape(array.shape)


def convert(array: Array, datatype: str, column: Column) -> Array:
    """An array of `datatype`, converted to the column's own; only lossless conversions are done."""
    spec = column.spec
    if column.conversion is not None and (column.converts_all or datatype != spec.datatype):
        values = decode_strings(array, spec.name) if datatype == "BYTES" else array
        return convert_values(values.ravel().tolist(), column).reshape(array.shape)
    if datatype == spec.datatype:
        if column.conversion is not None and not are_native(array, column):
            return convert_values(array.ravel().tolist(), column).reshape(array.shape)
        return decode_strings(array, spec.name) if datatype == "BYTES" else check_whole(array, column)
    if column.kind == "timestamp" and datatype == "BYTES":
        return _to_times(decode_strings(array, spec.name).ravel().tolist(), {str}, spec).reshape(array.shape)
    if (
        datatype != "BYTES"
        and spec.datatype != "BYTES"
        and np.can_cast(DATATYPES[datatype].numpy, spec.dtype)
    ):
        return check_whole(array.astype(spec.dtype), column)
    raise InputError(f"Input {spec.name!r} is {datatype}{list(array.shape)}, but the model takes {spec}")


def require_inputs(batch: Collection[str], columns: Mapping[str, Column]) -> None:
    """Raises InputError if an input without a default value is missing."""
    missing = [
        str(column.spec) for name, column in columns.items() if name not in batch and not column.optional
    ]
    if missing:
        raise InputError(f"Input missing: {', '.join(missing)}")


def check_rows(batch: Mapping[str, Array], columns: Mapping[str, Column]) -> int:
    """Rows of a batch whose inputs all start with a free dimension. Raises InputError if they differ."""
    counts = {len(array) for name, array in batch.items() if _has_rows(array, columns[name])}
    if len(counts) > 1:
        rows = {name: len(array) for name, array in batch.items() if _has_rows(array, columns[name])}
        raise InputError(f"The inputs have different numbers of rows: {rows}; send one value a row in each")
    return counts.pop() if counts else 1


def _has_rows(array: Array, column: Column) -> bool:
    """An optional input may have any length: it replaces the model's default value."""
    return (
        array.ndim > 0 and column.spec.shape[:1] == (-1,) and column.kind != ELEMENTS and not column.optional
    )
