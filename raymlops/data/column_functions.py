"""Functions of expressions on one arrow column: mathematics, casts, texts and the calendar."""

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.data.column_values import (
    INSTANT,
    RefusedValueError,
    Value,
    align,
    floats,
    instant,
    kind_of,
    known,
    number,
    text,
)
from raymlops.expressions import CALENDAR, Literal

_NO_PLACES, _UTC = Literal(0), Literal("UTC")


def _of_floats(name: str, compute: Callable[[Value], Value]) -> Callable[[Value], Value]:
    return lambda value: known(compute(floats(value, name)))


def _of_numpy(name: str, compute: Callable[..., object]) -> Callable[[Value], Value]:
    def run(value: Value) -> Value:
        taken = floats(value, name)
        if isinstance(taken, pa.Scalar):
            return run(pa.array([taken.as_py()], pa.float64()))[0]
        with np.errstate(all="ignore"):
            found = compute(pc.fill_null(taken, np.nan).to_numpy(zero_copy_only=False))
        return pa.array(found, pa.float64(), from_pandas=True)

    return run


def float_modulo(left: Value, right: Value) -> Value:
    """Python's % of floats, as numpy computes it; missing when dividing by 0."""
    rows = next((len(side) for side in (left, right) if not isinstance(side, pa.Scalar)), 1)
    sides = [pa.repeat(side, rows) if isinstance(side, pa.Scalar) else side for side in (left, right)]
    with np.errstate(all="ignore"):
        found = np.mod(*[pc.fill_null(side, np.nan).to_numpy(zero_copy_only=False) for side in sides])
    array = pa.array(found, left.type, from_pandas=True)
    return array[0] if isinstance(left, pa.Scalar) and isinstance(right, pa.Scalar) else array


def _rounded(name: str, compute: Callable[[Value], Value]) -> Callable[[Value], Value]:
    def run(value: Value) -> Value:
        taken = number(value, name)
        return compute(taken) if pa.types.is_floating(taken.type) else taken

    return run


def _round(value: Value, places: Literal = _NO_PLACES) -> Value:
    assert isinstance(places.value, int)
    taken = number(value, "round")
    if not pa.types.is_floating(taken.type) and places.value >= 0:
        return taken
    return pc.round(taken, ndigits=places.value, round_mode="half_to_even")


def _to_int(value: Value) -> Value:
    if kind_of(value) == "text":
        return pc.cast(pc.utf8_trim_whitespace(value), pa.int64())
    taken = number(value, "int")
    return pc.trunc(taken).cast(pa.int64()) if pa.types.is_floating(taken.type) else taken


def _to_float(value: Value) -> Value:
    if kind_of(value) == "text":
        return known(pc.cast(pc.utf8_trim_whitespace(value), pa.float64()))
    return floats(value, "float")


def _to_bool(value: Value) -> Value:
    if kind_of(value) in ("text", "boolean", "nothing"):
        return value.cast(pa.bool_())
    return pc.not_equal(number(value, "bool"), 0)


def _to_text(value: Value) -> Value:
    if kind_of(value) == "text":
        return value
    if kind_of(value) not in ("number", "boolean", "instant", "nothing"):
        raise RefusedValueError(f"str does not take {value.type} values")
    return known(value).cast(pa.string())


def _to_instant(value: Value) -> Value:
    """The time with a time zone; without one it is read as UTC."""
    if kind_of(value) != "text":
        found = instant(value, "timestamp")
        return found if found.type.tz else pc.assume_timezone(found, "UTC")
    try:
        return value.cast(INSTANT)
    except pa.ArrowInvalid:
        return pc.assume_timezone(value.cast(pa.timestamp("us")), "UTC")


_PARTS: dict[str, Callable[[Value], Value]] = {
    "year": pc.year,
    "quarter": pc.quarter,
    "month": pc.month,
    "day": pc.day,
    "dayofyear": pc.day_of_year,
    "weekday": pc.day_of_week,  # Monday is 0
    "hour": pc.hour,
    "minute": pc.minute,
    "second": pc.second,
}


def _part_here(name: str) -> Callable[[Value], Value]:
    """The pandas accessor of a timestamp, in the column's own time zone."""
    return lambda value: _PARTS[name](instant(value, f".dt.{name}")).cast(pa.int64())


def _part(name: str) -> Callable[..., Value]:
    """In a named zone, or UTC; the hour has its minutes, seconds and milliseconds as a fraction."""

    def run(value: Value, zone: Literal = _UTC) -> Value:
        taken = instant(value, name)
        if taken.type.tz is None:
            taken = pc.assume_timezone(taken, "UTC")
        taken = taken.cast(pa.timestamp(taken.type.unit, tz=str(zone.value)))
        if name != "hour":
            return _PARTS[name](taken).cast(pa.int64())
        seconds = pc.add(pc.multiply(pc.hour(taken), 3600), pc.multiply(pc.minute(taken), 60))
        whole = pc.add(pc.cast(seconds, pa.float64()), pc.cast(pc.second(taken), pa.float64()))
        return pc.divide(pc.add(whole, pc.subsecond(taken)), 3600.0)

    return run


def _total_seconds(value: Value) -> Value:
    if kind_of(value) not in ("duration", "nothing"):
        raise RefusedValueError("total_seconds takes the difference of two timestamps")
    units = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
    return pc.divide(floats(value.cast(pa.int64()), "total_seconds"), units[getattr(value.type, "unit", "s")])


def _of_text(name: str, compute: Callable[[Value], Value]) -> Callable[[Value], Value]:
    return lambda value: compute(text(value, name))


def _strip(name: str, spaces: Callable[[Value], Value], signs: Callable[..., Value]) -> Callable[..., Value]:
    def run(value: Value, characters: Literal | None = None) -> Value:
        taken = text(value, name)
        return spaces(taken) if characters is None else signs(taken, characters=_pattern(characters, name))

    return run


def _pattern(literal: Literal, name: str) -> str:
    if not isinstance(literal.value, str):
        raise RefusedValueError(f"{name} takes a text, and got {literal.value!r}")
    return literal.value


def _contains(value: Value, pattern: Literal, case: Literal, regex: Literal) -> Value:
    """A regular expression of RE2, which runs in time linear in the text's length."""
    match = pc.match_substring_regex if regex.value else pc.match_substring
    return match(text(value, "contains"), pattern=_pattern(pattern, "contains"), ignore_case=not case.value)


def _place(literal: Literal | None, name: str) -> int | None:
    if literal is not None and type(literal.value) is not int:
        raise RefusedValueError(f"{name} takes integers, and got {literal.value!r}")
    return None if literal is None else int(literal.value)


def _slice(value: Value, start: Literal, stop: Literal | None = None) -> Value:
    return pc.utf8_slice_codeunits(
        text(value, "slice"), start=_place(start, "slice"), stop=_place(stop, "slice")
    )


def _get(value: Value, place: Literal) -> Value:
    """One character; missing if the text is shorter."""
    start = _place(place, "get")
    assert start is not None
    found = pc.utf8_slice_codeunits(text(value, "get"), start=start, stop=None if start == -1 else start + 1)
    return pc.if_else(pc.equal(found, ""), pa.scalar(None, found.type), found)


def _add(budget: int, left: Value, right: Value) -> Value:
    if "text" not in (kind_of(left), kind_of(right)):
        return known(pc.add_checked(*align(number(left), number(right), "+")))
    left, right = align(text(left, "+ with a text"), text(right, "+ with a text"), "+")
    rows = next((len(side) for side in (left, right) if not isinstance(side, pa.Scalar)), 1)
    _require_room(sum(_bytes_of(side, rows) for side in (left, right)), budget)
    empty = pa.scalar("", left.type)
    return pc.binary_join_element_wise(left, right, empty)


def _bytes_of(value: Value, rows: int) -> int:
    if isinstance(value, pa.Scalar):
        return rows * len((value.as_py() or "").encode())
    return int(pc.sum(pc.binary_length(value)).as_py() or 0)


def _require_room(size: int, budget: int) -> None:
    if size > budget:
        raise RefusedValueError(
            f"texts of {size:,} bytes would be made for a block of rows; {budget:,} are allowed"
        )


def _replace(budget: int, value: Value, pattern: Literal, other: Literal, regex: Literal) -> Value:
    taken, old, new = text(value, "replace"), _pattern(pattern, "replace"), _pattern(other, "replace")
    if not old:
        raise RefusedValueError("replace takes a text of one character at least")
    count = pc.count_substring_regex if regex.value else pc.count_substring
    if isinstance(taken, pa.Scalar):
        return _replace(budget, pa.array([taken.as_py()], taken.type), pattern, other, regex)[0]
    found, size = pc.sum(count(taken, pattern=old)).as_py() or 0, _bytes_of(taken, len(taken))
    copies = len(re.findall(r"\\\d", new)) if regex.value else 0
    _require_room(size * (1 + copies) + found * len(new.encode()), budget)
    change = pc.replace_substring_regex if regex.value else pc.replace_substring
    return change(taken, pattern=old, replacement=new)


SIZED: dict[str, Callable[..., Value]] = {"add": _add, "replace": _replace}
"""Functions whose result may be much larger than their input: their first argument is the bytes that the result may
have."""

FUNCTIONS: dict[str, Callable[..., Value]] = {
    "abs": lambda value: pc.abs_checked(number(value, "abs")),
    "floor": _rounded("floor", pc.floor),
    "ceil": _rounded("ceil", pc.ceil),
    "round": _round,
    **{
        name: _of_floats(name, compute)
        for name, compute in {
            "sqrt": pc.sqrt, "exp": pc.exp, "log": pc.ln, "log10": pc.log10, "log1p": pc.log1p, "sin": pc.sin,
            "cos": pc.cos, "tan": pc.tan, "asin": pc.asin, "acos": pc.acos, "atan": pc.atan,
        }.items()
    },
    **{
        name: _of_numpy(name, compute)
        for name, compute in {
            "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh,
            "atanh": np.arctanh,
        }.items()
    },
    "int": _to_int,
    "float": _to_float,
    "bool": _to_bool,
    "str": _to_text,
    "timestamp": _to_instant,
    **{name: _part(name) for name in CALENDAR},
    **{f"dt_{name}": _part_here(name) for name in CALENDAR},
    "total_seconds": _total_seconds,
    **{
        name: _of_text(name, compute)
        for name, compute in {
            "lower": pc.utf8_lower, "upper": pc.utf8_upper, "title": pc.utf8_title, "capitalize": pc.utf8_capitalize,
            "isdigit": pc.utf8_is_digit, "isalpha": pc.utf8_is_alpha, "isalnum": pc.utf8_is_alnum,
            "isnumeric": pc.utf8_is_numeric, "isspace": pc.utf8_is_space, "isupper": pc.utf8_is_upper,
            "islower": pc.utf8_is_lower,
        }.items()
    },
    "len": lambda value: pc.utf8_length(text(value, "len")).cast(pa.int64()),
    "strip": _strip("strip", pc.utf8_trim_whitespace, pc.utf8_trim),
    "lstrip": _strip("lstrip", pc.utf8_ltrim_whitespace, pc.utf8_ltrim),
    "rstrip": _strip("rstrip", pc.utf8_rtrim_whitespace, pc.utf8_rtrim),
    "contains": _contains,
    "startswith": lambda value, start: pc.starts_with(text(value, "startswith"), _pattern(start, "startswith")),
    "endswith": lambda value, end: pc.ends_with(text(value, "endswith"), _pattern(end, "endswith")),
    "slice": _slice,
    "get": _get,
}  # fmt: skip
