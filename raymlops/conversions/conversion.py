"""Values as they were read -> the type that a column is to have: one function for training, evaluation, prediction
and endpoints, so that each value means the same everywhere. Each value is converted by itself: the result depends
neither on other values nor on how rows are divided into blocks and files.

What cannot be converted becomes null; `Converted.failed` tells it from what was missing. Guesses nothing: see
`time_formats` for proposals.
"""

import dataclasses
import datetime
import decimal
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.conversions.instants import parse_instant

Type = Literal["string", "integer", "number", "boolean", "timestamp"]
Mask = npt.NDArray[np.bool_]
TYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("ms", tz="UTC"),
}
"""Name of a type in a spec -> Arrow's type."""
EPOCHS: Mapping[str, decimal.Decimal] = {
    "epoch_s": decimal.Decimal(1000),
    "epoch_ms": decimal.Decimal(1),
    "epoch_us": decimal.Decimal("1e-3"),
    "epoch_ns": decimal.Decimal("1e-6"),
}
"""Formats of times that are numbers since 1970-01-01 UTC -> their unit in milliseconds."""
WORDS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0", "0.0"), False),
}
"""Texts that are booleans, in small letters, where none are declared."""
MISSING_TEXTS = frozenset((
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "NaT", "None", "n/a", "nan", "null",
))  # fmt: skip
"""Texts that stand for a missing value where numbers, booleans or times are expected: those that pyarrow's reader of
CSV takes for one, and what pandas writes."""
BEYOND_FP32 = f"numbers of FP32, up to {np.finfo(np.float32).max:.1e}"
"""The rule that `find_beyond_fp32` checks, for a person."""
EXACT = 2**53
"""Integers up to this one have a float64 of their own."""
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_INFINITY = re.compile(r"[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)
_RFC_3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:.]+([Zz]|[+-][0-9]{2}:[0-9]{2})")
"""An instant as programs write it, which is taken beside any format: a column of times has no other text form."""
_BLANKS = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2009": " "})
"""Blanks that separate thousands, in print."""
_EARLIEST, _LATEST = -62_135_596_800_000, 253_402_300_799_999
"""Milliseconds of the years 1 to 9999, which Python's times have."""
_LONGEST = 400
"""Characters of a text that may be a number or a time."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """A column in its type, and which of its values were there and could not be converted; these are null."""

    values: pa.ChunkedArray
    failed: Mask


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What the values of a column are to become, and how they are written."""

    type: Type
    format: str = ""
    """Of times: as in strptime, or one of `EPOCHS`; empty is ISO 8601, UTC where it names no zone, and for numbers
    epoch_ms."""
    words: tuple[tuple[str, bool], ...] = ()
    """Texts that are booleans, in any case; empty is `WORDS`."""
    decimal: str = "."
    thousands: str = ""
    ignore_case: bool = False
    """Of texts: in small letters."""
    ignore_blanks: bool = False
    """Of texts: none at the ends, one between words."""

    def apply(self, column: pa.ChunkedArray) -> Converted:
        """The column in the Arrow type of `TYPES`."""
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.string())
        kind = column.type
        if kind == TYPES[self.type] and not self.normalises:
            return Converted(column, np.zeros(len(column), dtype=bool))
        if pa.types.is_null(kind):
            return Converted(column.cast(TYPES[self.type]), np.zeros(len(column), dtype=bool))
        values = _CONVERT[self.type](column, self)
        failed = _mask(pc.is_null(values)) & ~find_missing(column, self.type)
        return Converted(values, failed)

    @property
    def normalises(self) -> bool:
        """Whether it changes values that have the type already."""
        return self.type == "string" and (self.ignore_case or self.ignore_blanks)

    def __str__(self) -> str:
        """The rule for a person."""
        how = [f"format {self.format!r}"] if self.format else []
        how += [f"words {', '.join(word for word, _ in self.words)}"] if self.words else []
        how += [f"decimal {self.decimal!r}"] if self.decimal != "." else []
        how += [f"thousands {self.thousands!r}"] if self.thousands else []
        return ", ".join([f"type {self.type}", *how])

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults."""
        held = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name == "type" or getattr(self, field.name) != field.default
        }
        return {**held, "words": dict(self.words)} if self.words else held

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Conversion":
        """Raises TypeError or ValueError for what is no rule of this version."""
        words = tuple(dict(value.get("words", {})).items())
        found = cls(**{**value, "words": words})
        texts = (found.type, found.format, found.decimal, found.thousands, *(word for word, _ in words))
        flags = (found.ignore_case, found.ignore_blanks, *(flag for _, flag in words))
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(flag, bool) for flag in flags
        ):
            raise ValueError("a text or a flag is of another type")
        if found.type not in TYPES or len(found.decimal) != 1 or len(found.thousands) > 1:
            raise ValueError("its type, or a mark of its numbers, is unknown")
        check_format(found.format)
        return found


def find_missing(column: pa.ChunkedArray, kind: str) -> Mask:
    """True where nothing was written: null, NaN, and a text that stands for a missing value of this type."""
    missing = _mask(pc.is_null(column, nan_is_null=True))
    if is_text(column.type):
        known = pa.array(sorted(MISSING_TEXTS) if kind != "string" else [""], column.type)
        texts = pc.utf8_trim_whitespace(column) if kind != "string" else column
        missing |= _mask(pc.is_in(texts, value_set=known))
    return missing


def find_beyond_fp32(column: pa.ChunkedArray) -> Mask:
    """True for finite numbers that are infinite as FP32, which models take."""
    if not pa.types.is_float64(column.type):  # integers and decimals of up to 38 digits are below
        return np.zeros(len(column), dtype=bool)
    values = column.to_numpy()
    with np.errstate(over="ignore"):
        return np.asarray(np.isinf(values.astype(np.float32)) & ~np.isinf(values), dtype=bool)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def check_format(form: str) -> None:
    """Raises ValueError unless it is a format of times that reads what it writes."""
    if form in ("", *EPOCHS):
        return
    if "%" not in form:
        raise ValueError(f"expected a format of strptime, such as %d/%m/%Y, or one of {', '.join(EPOCHS)}")
    sample = datetime.datetime(2001, 2, 3, 4, 5, 6, tzinfo=datetime.UTC).strftime(form)
    found = _parse_times([sample], form)[0].as_py()
    if found is not None and found.year != 2001:
        raise ValueError(f"format {form!r} has no year")
    if found is None:
        raise ValueError(f"format {form!r} does not read back {sample!r}, which it writes")


def _mask(values: Any) -> Mask:
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=bool)


def _convert_texts(
    column: pa.ChunkedArray, convert: Callable[[list[str]], pa.Array], kind: pa.DataType
) -> pa.ChunkedArray:
    """Each distinct text once, without blanks at its ends; null for texts that are missing values or overlong."""
    encoded = pa.chunked_array(column.chunks, column.type).dictionary_encode().unify_dictionaries()
    texts = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    found = convert([text.strip() if len(text) <= _LONGEST else "" for text in texts])
    return pa.chunked_array([found.take(chunk.indices) for chunk in encoded.chunks], kind)


def _each(convert: Callable[[Any], Any], kind: pa.DataType) -> Callable[[list[Any]], pa.Array]:
    """Of values one by one; what raises is null."""

    def convert_all(values: list[Any]) -> pa.Array:
        return pa.array([_try(convert, value) for value in values], kind)

    return convert_all


def _try(convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return None if value is None else convert(value)
    except (ValueError, OverflowError, ArithmeticError):
        return None


def _convert_values(
    column: pa.ChunkedArray, convert: Callable[[Any], Any], kind: pa.DataType
) -> pa.ChunkedArray:
    """Of values that are no texts, one by one."""
    return pa.chunked_array([_each(convert, kind)(column.to_pylist())], kind)


def _nulls(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(len(column), TYPES[kind])])


def _to_string(column: pa.ChunkedArray, rule: Conversion) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        texts = _convert_values(column, _number_to_text, pa.string())
    else:
        try:
            texts = column.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # bytes that are no texts, lists
            texts = _convert_values(column, _bytes_to_text, pa.string())
    if not (rule.ignore_case or rule.ignore_blanks):
        return texts
    encoded = texts.combine_chunks().dictionary_encode()
    found = [_normalise(text, rule) for text in encoded.dictionary.to_pylist()]
    return pa.chunked_array([pa.array(found, pa.string()).take(encoded.indices)])


def _normalise(text: str, rule: Conversion) -> str:
    if rule.ignore_blanks:
        text = " ".join(text.split())
    return text.casefold() if rule.ignore_case else text


def _number_to_text(value: float | decimal.Decimal) -> str | None:
    """A whole number as an integer is written: readers make floats of integers where some are missing."""
    if value != value or abs(value) == float("inf"):
        return None
    if value == int(value):
        return str(int(value)) if isinstance(value, decimal.Decimal) or abs(value) < EXACT else None
    return repr(value) if isinstance(value, float) else str(value)


def _bytes_to_text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else None


def _to_boolean(column: pa.ChunkedArray, rule: Conversion) -> pa.ChunkedArray:
    if is_text(column.type):
        words = {word.casefold(): value for word, value in rule.words} or WORDS
        return _convert_texts(column, _each(lambda text: words.get(text.casefold()), pa.bool_()), pa.bool_())
    if is_number(column.type):
        return _convert_values(column, lambda value: {0: False, 1: True}.get(value), pa.bool_())
    return _nulls(column, "boolean")


def _to_integer(column: pa.ChunkedArray, rule: Conversion) -> pa.ChunkedArray:
    kind = column.type
    if is_text(kind):
        return _convert_texts(
            column, _each(lambda text: _text_to_integer(text, rule), pa.int64()), pa.int64()
        )
    if pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and not pa.types.is_uint64(kind)):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind):
        values = column.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.floor(values), values), pc.less_equal(pc.abs(values), float(EXACT)))
        return pc.if_else(pc.fill_null(whole, False), values, None).cast(pa.int64())
    if is_number(kind):
        return _convert_values(column, _whole, pa.int64())
    return _nulls(column, "integer")


def _text_to_integer(text: str, rule: Conversion) -> int | None:
    plain = _plain_number(text, rule)
    if plain.isascii() and plain.isdecimal() and len(plain) < 19:
        return int(plain)
    if not _NUMBER.fullmatch(plain):
        return None
    found = decimal.Decimal(plain)
    return _whole(found) if found.adjusted() <= 19 else None


def _whole(value: int | decimal.Decimal) -> int | None:
    whole = int(value)
    return whole if whole == value and -(2**63) <= whole < 2**63 else None


def _to_number(column: pa.ChunkedArray, rule: Conversion) -> pa.ChunkedArray:
    kind = column.type
    if is_text(kind):
        if rule.decimal == "." and not rule.thousands:
            return _parse_plain_numbers(column)
        return _convert_texts(
            column, _each(lambda text: _text_to_number(text, rule), pa.float64()), pa.float64()
        )
    if pa.types.is_boolean(kind):
        return column.cast(pa.int8()).cast(pa.float64())
    if is_number(kind):
        return pc.cast(column, pa.float64(), safe=False)
    return _nulls(column, "number")


def _parse_plain_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Of texts with a point and without separators of thousands, which are the most: by Arrow."""
    texts = pc.utf8_trim_whitespace(column)
    numbers = pc.match_substring_regex(texts, f"^({_NUMBER.pattern})$")
    infinite = pc.match_substring_regex(texts, f"^({_INFINITY.pattern})$", ignore_case=True)
    nothing = pa.scalar(None, texts.type)
    found = pc.if_else(pc.or_(numbers, infinite), texts, nothing).cast(pa.float64())
    beyond = pc.and_(numbers, pc.is_inf(found))  # such as 1e400
    return pc.if_else(beyond, pa.scalar(None, pa.float64()), found)


def _text_to_number(text: str, rule: Conversion) -> float | None:
    plain = _plain_number(text, rule)
    if _INFINITY.fullmatch(plain):
        return float(plain)
    found = float(plain) if _NUMBER.fullmatch(plain) else None
    return None if found in (float("inf"), float("-inf")) else found


def _plain_number(text: str, rule: Conversion) -> str:
    """With a point, and without separators of thousands where these are in their places."""
    if rule.thousands:
        text = text.translate(_BLANKS).replace("\u2019", "'")
        whole, mark, rest = text.partition(rule.decimal)
        if re.fullmatch(rf"[+-]?[0-9]{{1,3}}({re.escape(rule.thousands)}[0-9]{{3}})+", whole, re.ASCII):
            text = whole.replace(rule.thousands, "") + mark + rest
    if rule.decimal != ".":
        text = "?" if "." in text else text.replace(rule.decimal, ".", 1)
    return text


def _to_timestamp(column: pa.ChunkedArray, rule: Conversion) -> pa.ChunkedArray:
    kind, wanted = column.type, TYPES["timestamp"]
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if pa.types.is_timestamp(kind) and kind.unit in ("us", "ns"):
            column = pc.floor_temporal(column, unit="millisecond")
        naive = pa.timestamp("ms", tz=getattr(kind, "tz", None))
        return pc.cast(pc.cast(column, naive, safe=False), wanted, safe=False)  # naive times are read as UTC
    form = rule.format or ("epoch_ms" if is_number(kind) else "")
    if form in EPOCHS and pa.types.is_integer(kind):
        return _scale_integers(column, EPOCHS[form])
    if form in EPOCHS and (is_text(kind) or is_number(kind)):
        return _scale_others(column, EPOCHS[form])
    if is_number(kind):  # such as 20130701
        kind, column = pa.string(), _convert_values(column, _number_to_text, pa.string())
    if is_text(kind):
        return _convert_texts(column, lambda texts: _parse_times(texts, rule.format), wanted)
    return _nulls(column, "timestamp")


def _scale_integers(column: pa.ChunkedArray, unit: decimal.Decimal) -> pa.ChunkedArray:
    """Whole numbers of a unit in milliseconds, rounded down."""
    missing = _mask(pc.is_null(column))
    values = pc.fill_null(column, 0).to_numpy()
    if unit >= 1:
        factor = int(unit)
        missing |= (values > _LATEST // factor) | (values < -(-_EARLIEST // factor))
        found = np.where(missing, 0, values).astype(np.int64) * factor
    else:
        found = (values // int(1 / unit)).astype(np.int64)
        missing |= (found > _LATEST) | (found < _EARLIEST)
    instants = pa.array(found, pa.int64(), mask=missing)
    return pa.chunked_array([instants.cast(TYPES["timestamp"])])


def _scale_others(column: pa.ChunkedArray, unit: decimal.Decimal) -> pa.ChunkedArray:
    convert = _each(lambda value: _scale_epoch(value, unit), pa.int64())
    found = (
        _convert_texts(column, convert, pa.int64())
        if is_text(column.type)
        else pa.chunked_array([convert(column.to_pylist())], pa.int64())
    )
    return found.cast(TYPES["timestamp"])


def _scale_epoch(value: Any, unit: decimal.Decimal) -> int | None:
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return parse_instant(value) if _RFC_3339.fullmatch(value) else None
    found = decimal.Decimal(value) * unit
    if found.adjusted() > 19:
        return None
    whole = int(found.to_integral_value(rounding=decimal.ROUND_FLOOR))
    return whole if _EARLIEST <= whole <= _LATEST else None


def _parse_times(texts: list[str], form: str) -> pa.Array:
    if not form:
        return _parse_iso(texts).cast(TYPES["timestamp"])
    import pandas as pd  # most processes that convert read no such times

    times = pd.to_datetime(pd.Series(texts, dtype=object), format=form, errors="coerce", utc=True)
    instants = times.dt.tz_convert(None).dt.floor("ms").to_numpy().astype("datetime64[ms]")
    for place in np.flatnonzero(np.isnat(instants)):
        if _RFC_3339.fullmatch(texts[place]):
            instants[place] = (
                np.datetime64("NaT") if (found := _try(parse_instant, texts[place])) is None else found
            )
    return pa.array(instants, pa.timestamp("ms")).cast(TYPES["timestamp"])


def _parse_iso(texts: list[str]) -> pa.Array:
    """Milliseconds since 1970. Arrow reads a part of ISO 8601, fast."""
    if len(texts) > 64:
        for kind in (pa.timestamp("ms"), TYPES["timestamp"]):
            try:
                return pa.array(texts, pa.string()).cast(kind).cast(pa.int64())
            except pa.ArrowInvalid:
                continue
    return _each(parse_instant, pa.int64())(texts)


_CONVERT: Mapping[str, Callable[[pa.ChunkedArray, Conversion], pa.ChunkedArray]] = {
    "string": _to_string,
    "integer": _to_integer,
    "number": _to_number,
    "boolean": _to_boolean,
    "timestamp": _to_timestamp,
}
