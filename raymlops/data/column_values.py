"""Values of expressions: arrow arrays and scalars of a few kinds, converted to one type before they are combined."""

import datetime
import re
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

Value: TypeAlias = Any
"""An arrow Array, or a Scalar, which is converted to the type of the column that it is combined with."""

INSTANT = pa.timestamp("us", tz="UTC")


class RefusedValueError(ValueError):
    """A value, or a kind of value, that a function does not accept."""


def kind_of(value: Value) -> str:
    """number, boolean, text, instant, duration, nothing (only nulls), or the name of another arrow type."""
    kind = value.type
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "instant"
    if pa.types.is_duration(kind):
        return "duration"
    return "nothing" if pa.types.is_null(kind) else str(kind)


def plain(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, dictionary-decoded, with one representation of missing values."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # some types still come in chunks
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    return array


def known(value: Value) -> Value:
    """NaN becomes null, the missing value everywhere else."""
    if not pa.types.is_floating(value.type):
        return value
    if isinstance(value, pa.Scalar):
        return pa.scalar(None, value.type) if value.is_valid and value.as_py() != value.as_py() else value
    return pc.if_else(pc.is_nan(value), pa.scalar(None, value.type), value)


def number(value: Value, function: str = "arithmetic") -> Value:
    """As INT64, FP32 or FP64; a boolean counts as 0 and 1."""
    kind = value.type
    if pa.types.is_null(kind):
        return value.cast(pa.float64())
    if kind_of(value) not in ("number", "boolean"):
        raise RefusedValueError(f"{function} takes numbers, and got {describe(value)}")
    if pa.types.is_floating(kind):
        return known(value.cast(pa.float32()) if pa.types.is_float16(kind) else value)
    if pa.types.is_decimal(kind):
        return value.cast(pa.float64())
    return value if pa.types.is_int64(kind) else value.cast(pa.int64())


def floats(value: Value, function: str) -> Value:
    """As FP64."""
    found = number(value, function)
    return known(pc.cast(found, pa.float64(), safe=False))


def text(value: Value, function: str) -> Value:
    if pa.types.is_null(value.type):
        return value.cast(pa.string())
    if kind_of(value) != "text":
        raise RefusedValueError(f"{function} takes text, and got {describe(value)}; write str(...) around it")
    return value


def condition(value: Value, numbers: bool = False) -> Value:
    """As a boolean; a number is refused, except where bits cannot be meant."""
    if pa.types.is_null(value.type):
        return value.cast(pa.bool_())
    kind = kind_of(value)
    if kind == "boolean":
        return value
    if kind == "number" and numbers:
        return pc.not_equal(number(value), pa.scalar(0))
    raise RefusedValueError(
        f"a condition is true or false, and this one is {describe(value)}; compare it, as in x != 0"
    )


def instant(value: Value, function: str) -> Value:
    if pa.types.is_null(value.type):
        return value.cast(INSTANT)
    if kind_of(value) != "instant":
        raise RefusedValueError(
            f"{function} takes timestamps, and got {describe(value)}; write timestamp(...) around it"
        )
    return value.cast(pa.timestamp("ms")) if pa.types.is_date(value.type) else value


def describe(value: Value) -> str:
    """A kind in words, and a literal as it is written."""
    if isinstance(value, pa.Scalar):
        return repr(value.as_py())
    names = {"text": "texts", "boolean": "booleans", "instant": "timestamps", "nothing": "only nulls"}
    return names.get(kind_of(value), f"{value.type} values")


def align(left: Value, right: Value, doing: str) -> tuple[Value, Value]:
    """Two values as one type. Raises RefusedValueError for kinds that do not mix."""
    kinds = {kind_of(left), kind_of(right)} - {"nothing"}
    if not kinds:
        return left.cast(pa.bool_()), right.cast(pa.bool_())
    if kinds <= {"number", "boolean"}:
        return (
            (left, right) if kinds == {"boolean"} and left.type == right.type else _align_numbers(left, right)
        )
    if kinds == {"instant", "text"}:
        return _align_instants(_read_literal(left, right), _read_literal(right, left))
    if len(kinds) > 1:
        raise RefusedValueError(
            f"{doing} does not mix {describe(left)} and {describe(right)}; convert one of them"
        )
    if pa.types.is_null(left.type) or pa.types.is_null(right.type):
        return left.cast(right.type) if pa.types.is_null(left.type) else left, (
            right.cast(left.type) if pa.types.is_null(right.type) else right
        )
    if kinds == {"instant"}:
        return _align_instants(left, right)
    if kinds == {"text"} and left.type != right.type:
        return left.cast(pa.large_string()), right.cast(pa.large_string())
    if kinds & {"text", "duration", "boolean"}:
        return left, right
    raise RefusedValueError(f"{doing} does not take {describe(left)}")


def _align_numbers(left: Value, right: Value) -> tuple[Value, Value]:
    left, right = number(left, "arithmetic"), number(right, "arithmetic")
    if left.type == right.type:
        return left, right
    target = pa.float64()
    for one, other in ((left, right), (right, left)):
        if (
            isinstance(one, pa.Scalar)
            and not isinstance(other, pa.Scalar)
            and pa.types.is_float32(other.type)
        ):
            target = pa.float32()
    return pc.cast(left, target, safe=False), pc.cast(right, target, safe=False)


def _read_literal(value: Value, other: Value) -> Value:
    """A text compared with timestamps, read as ISO 8601; without a zone it is read in theirs."""
    if kind_of(value) != "text":
        return value
    if not isinstance(value, pa.Scalar):
        raise RefusedValueError("texts do not compare with timestamps; write timestamp(...) around the texts")
    written = value.as_py().strip()
    if re.fullmatch(r"\d{4}(-\d{2})?", written):
        written = f"{written}{'-01' if len(written) == 7 else '-01-01'}"
    try:
        found = datetime.datetime.fromisoformat(written)
    except ValueError:
        raise RefusedValueError(
            f"{value.as_py()!r} is not a time; write it as '2024-01-31' or '2024-01-31T12:00:00'"
        ) from None
    zone = getattr(other.type, "tz", None)
    if found.tzinfo is None:
        local = pa.scalar(found, pa.timestamp("us"))
        return pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="latest") if zone else local
    if zone is None:
        raise RefusedValueError(f"{written!r} has a time zone, and the column has none; write it without")
    return pa.scalar(found, INSTANT)


def _align_instants(left: Value, right: Value) -> tuple[Value, Value]:
    left, right = instant(left, "a comparison"), instant(right, "a comparison")
    if bool(left.type.tz) != bool(right.type.tz):
        raise RefusedValueError(
            "one timestamp has a time zone and the other has none; write timestamp(...) around the latter"
        )
    units = ("s", "ms", "us", "ns")
    finest = max(left.type.unit, right.type.unit, key=units.index)
    zone = "UTC" if left.type.tz else None
    try:
        return left.cast(pa.timestamp(finest, tz=zone)), right.cast(pa.timestamp(finest, tz=zone))
    except pa.ArrowInvalid:  # years that nanoseconds cannot represent
        return tuple(pc.cast(side, pa.timestamp("us", tz=zone), safe=False) for side in (left, right))
