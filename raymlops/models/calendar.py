"""Calendar functions as ONNX nodes of standard operators: parts of a timestamp, in any time zone."""

import dataclasses
import datetime
import functools
import zoneinfo

import numpy as np
from onnx import TensorProto

from raymlops.onnx_builder import GraphBuilder

_DAY = 86_400_000
_HOUR = 3_600_000
_YEARS = (1970, 2060)  # for times between these years, the graph holds the clock changes of time zones


def whole(build: GraphBuilder, value: int) -> str:
    """A constant, INT64 (1,)."""
    return build.constant(np.array([value], dtype=np.int64), "whole")


def add_calendar(build: GraphBuilder, instant: str, part: str, zone: str = "UTC") -> str:
    """A part of a timestamp as FP32 (rows,), from INT64 milliseconds since 1970-01-01 UTC; hours have fractions.

    Monday is 0, and so are the first day of a month, January, and 1 January; a leap day does not shift later days of
    the year.
    """
    if zone != "UTC":
        instant = build.add("Add", instant, _offset(build, instant, zone))
    # the result has the sign of the divisor, which is right before 1970 too
    in_day = build.add("Mod", instant, whole(build, _DAY))
    if part == "hour":
        hour = build.constant(np.array([_HOUR], dtype=np.float32), "hour")
        return build.add("Div", build.cast(in_day, TensorProto.FLOAT), hour)
    days = build.add("Div", build.add("Sub", instant, in_day), whole(build, _DAY))
    if part == "weekday":  # 1970-01-01 was a Thursday
        weekday = build.add("Mod", build.add("Add", days, whole(build, 3)), whole(build, 7))
        return build.cast(weekday, TensorProto.FLOAT)
    return _add_civil(build, days, part)


@dataclasses.dataclass(frozen=True)
class _Civil:
    """Names of INT64 tensors: a year that begins in March, within 400 years; its day and month, from 0."""

    days: str
    year: str
    of_year: str
    month: str


def _to_civil(build: GraphBuilder, days: str) -> _Civil:
    """Howard Hinnant, "chrono-compatible low-level date algorithms" (2013): integers only, a year begins in March.

    Five eras of 400 years are added so that no dividend is negative.
    """
    number = functools.partial(whole, build)
    shifted = build.add("Add", days, number(719468 + 146097 * 5))
    of_era = build.add("Mod", shifted, number(146097))
    less = build.add("Sub", of_era, build.add("Div", of_era, number(1460)))
    less = build.add("Add", less, build.add("Div", of_era, number(36524)))
    less = build.add("Sub", less, build.add("Div", of_era, number(146096)))
    year = build.add("Div", less, number(365))
    leaps = build.add("Sub", build.add("Div", year, number(4)), build.add("Div", year, number(100)))
    of_year = build.add("Sub", of_era, build.add("Add", build.add("Mul", year, number(365)), leaps))
    month = build.add("Div", build.add("Add", build.add("Mul", of_year, number(5)), number(2)), number(153))
    return _Civil(shifted, year, of_year, month)


def _add_civil(build: GraphBuilder, days: str, part: str) -> str:
    number, civil = functools.partial(whole, build), _to_civil(build, days)
    if part == "dayofyear":
        return build.cast(
            build.add("Mod", build.add("Add", civil.of_year, number(59)), number(365)), TensorProto.FLOAT
        )
    if part == "month":
        return build.cast(
            build.add("Mod", build.add("Add", civil.month, number(2)), number(12)), TensorProto.FLOAT
        )
    before = build.add(
        "Div", build.add("Add", build.add("Mul", civil.month, number(153)), number(2)), number(5)
    )
    return build.cast(build.add("Sub", civil.of_year, before), TensorProto.FLOAT)


def add_numbered(build: GraphBuilder, instant: str, part: str, zone: str = "UTC") -> str:
    """Like `add_calendar`, but numbered as in pandas: the first day, month and day of the year are 1, and leap days
    count.

    Also has the year, quarter, minute and second; only the hour has a fraction.
    """
    if part in ("weekday", "hour"):
        return add_calendar(build, instant, part, zone)
    number = functools.partial(whole, build)
    if part in ("month", "day"):
        return build.add("Add", add_calendar(build, instant, part, zone), _one(build))
    if zone != "UTC":
        instant = build.add("Add", instant, _offset(build, instant, zone))
    in_day = build.add("Mod", instant, number(_DAY))
    if part in ("minute", "second"):
        length = 60_000 if part == "minute" else 1000
        found = build.add("Mod", build.add("Div", in_day, number(length)), number(60))
        return build.cast(found, TensorProto.FLOAT)
    days = build.add("Div", build.add("Sub", instant, in_day), number(_DAY))
    civil = _to_civil(build, days)
    if part == "quarter":
        month = build.add("Mod", build.add("Add", civil.month, number(2)), number(12))
        return build.cast(build.add("Add", build.add("Div", month, number(3)), number(1)), TensorProto.FLOAT)
    before = build.cast(build.add("GreaterOrEqual", civil.of_year, number(306)), TensorProto.INT64)
    if part == "year":  # January and February belong to the year that began in the previous March
        eras = build.add("Mul", build.add("Div", civil.days, number(146097)), number(400))
        years = build.add("Add", build.add("Add", eras, civil.year), before)
        return build.cast(build.add("Sub", years, number(2000)), TensorProto.FLOAT)
    spring = build.add("Add", build.add("Add", civil.of_year, number(60)), _leap(build, civil.year))
    winter = build.add("Sub", civil.of_year, number(305))
    found = build.add("Where", build.cast(before, TensorProto.BOOL), winter, spring)
    return build.cast(found, TensorProto.FLOAT)


def _leap(build: GraphBuilder, year: str) -> str:
    """1 for a leap year, as INT64."""

    def divides(by: int) -> str:
        return build.add("Equal", build.add("Mod", year, whole(build, by)), whole(build, 0))

    common = build.add("And", divides(100), build.add("Not", divides(400)))
    return build.cast(build.add("And", divides(4), build.add("Not", common)), TensorProto.INT64)


def _one(build: GraphBuilder) -> str:
    return build.constant(np.array([1], dtype=np.float32), "number")


def _offset(build: GraphBuilder, instant: str, zone: str) -> str:
    """Milliseconds that the zone's clock is ahead of UTC at each instant."""
    changes, offsets = clock_changes(zone)
    if not changes:
        return whole(build, offsets[0])
    passed = build.add(
        "GreaterOrEqual", build.column(instant), build.constant(np.array(changes, dtype=np.int64), "changes")
    )  # (rows, changes)
    axis = build.constant(np.array([1], dtype=np.int64), "axis")
    count = build.add("ReduceSum", build.cast(passed, TensorProto.INT32), axis, keepdims=0)
    return build.add("Gather", build.constant(np.array(offsets, dtype=np.int64), "offsets"), count)


@functools.cache
def clock_changes(zone: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Times (ms) at which a zone's offset changes, and the offsets (ms) before, between and after them."""
    place = zoneinfo.ZoneInfo(zone)

    def offset(second: int) -> int:
        moment = datetime.datetime.fromtimestamp(second, tz=place)
        return round((moment.utcoffset() or datetime.timedelta()).total_seconds() * 1000)

    first, last = (int(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp()) for year in _YEARS)
    changes, offsets = [], [offset(first)]
    for day in range(first, last, 7 * 86_400):
        if offset(day + 7 * 86_400) == offsets[-1]:
            continue
        low, high = day, day + 7 * 86_400
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
        changes.append(high * 1000)
        offsets.append(offset(high))
    return tuple(changes), tuple(offsets)
