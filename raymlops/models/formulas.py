"""Feature expressions and the calendar as ONNX nodes of standard operators. Knows no fitted values."""

import ast
import datetime
import functools
import math
import zoneinfo
from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from raymlops import expressions
from raymlops.features import MISSING_INSTANT
from raymlops.models.nodes import GraphBuilder

_DAY = 86_400_000
_HOUR = 3_600_000
_YEARS = (1970, 2060)  # between these the clock changes of time zones are known to the graph

_BINARY = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Div: "Div", ast.Pow: "Pow"}
_COMPARE = {
    ast.Lt: "Less",
    ast.LtE: "LessOrEqual",
    ast.Gt: "Greater",
    ast.GtE: "GreaterOrEqual",
    ast.Eq: "Equal",
    ast.NotEq: "Equal",
}
_UNARY = {
    "abs": "Abs",
    "sqrt": "Sqrt",
    "log": "Log",
    "exp": "Exp",
    "sin": "Sin",
    "cos": "Cos",
    "floor": "Floor",
}
_PAIRS = {"min": "Min", "max": "Max"}


def add_formula(build: GraphBuilder, expression: str, column: Callable[[str], str]) -> str:
    """The nodes of an expression; `column` names the tensor of a raw column: FP32, or INT64 for a timestamp."""
    return _add(build, expressions.parse(expression), column)


def _add(build: GraphBuilder, node: ast.expr, column: Callable[[str], str]) -> str:
    if isinstance(node, ast.Constant):
        return _number(build, float(node.value))  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return (
            _number(build, expressions.CONSTANTS[node.id])
            if node.id in expressions.CONSTANTS
            else column(node.id)
        )
    if isinstance(node, ast.Call):
        return _add_call(build, node, column)
    if isinstance(node, ast.UnaryOp):
        inner = _add(build, node.operand, column)
        if isinstance(node.op, ast.Not):
            return build.add("Sub", _number(build, 1), _truth(build, inner))
        return build.add("Neg", inner) if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BoolOp):
        parts = [_truth(build, _add(build, value, column)) for value in node.values]
        operator = "Mul" if isinstance(node.op, ast.And) else "Max"
        return functools.reduce(lambda left, right: build.add(operator, left, right), parts)
    if isinstance(node, ast.Compare):
        return _add_comparison(build, node, column)
    assert isinstance(node, ast.BinOp)
    left, right = _add(build, node.left, column), _add(build, node.right, column)
    if type(node.op) in _BINARY:
        return build.add(_BINARY[type(node.op)], left, right)
    whole = build.add("Floor", build.add("Div", left, right))
    return (
        whole if isinstance(node.op, ast.FloorDiv) else build.add("Sub", left, build.add("Mul", whole, right))
    )


def _add_comparison(build: GraphBuilder, node: ast.Compare, column: Callable[[str], str]) -> str:
    left, right = _add(build, node.left, column), _add(build, node.comparators[0], column)
    found = build.cast(build.add(_COMPARE[type(node.ops[0])], left, right), TensorProto.FLOAT)
    if not isinstance(node.ops[0], ast.NotEq):
        return found
    known = [build.add("Sub", _number(build, 1), _missing(build, side)) for side in (left, right)]
    different = build.add("Sub", _number(build, 1), found)
    return functools.reduce(lambda a, b: build.add("Mul", a, b), known, different)


def _add_call(build: GraphBuilder, node: ast.Call, column: Callable[[str], str]) -> str:
    assert isinstance(node.func, ast.Name)
    name = node.func.id
    if name in expressions.CALENDAR:
        zone = (
            str(node.args[1].value)
            if len(node.args) == 2 and isinstance(node.args[1], ast.Constant)
            else "UTC"
        )
        assert isinstance(node.args[0], ast.Name)
        instant = column(node.args[0].id)
        found = add_calendar(build, instant, name, zone)
        missing = build.add("Equal", instant, _whole(build, MISSING_INSTANT))
        return build.add("Where", missing, _number(build, math.nan), found)
    inner = [_add(build, argument, column) for argument in node.args]
    if name == "isnan":
        return _missing(build, inner[0])
    if name == "where":
        return build.add("Where", build.cast(_truth(build, inner[0]), TensorProto.BOOL), inner[1], inner[2])
    return build.add(_UNARY[name] if name in _UNARY else _PAIRS[name], *inner)


def _truth(build: GraphBuilder, tensor: str) -> str:
    """1 where a value is neither 0 nor missing."""
    found = build.add("Greater", build.add("Abs", tensor), _number(build, 0))
    return build.cast(found, TensorProto.FLOAT)


def _missing(build: GraphBuilder, tensor: str) -> str:
    return build.cast(build.add("IsNaN", tensor), TensorProto.FLOAT)


def _number(build: GraphBuilder, value: float) -> str:
    return build.constant(np.array([value], dtype=np.float32), "number")


def _whole(build: GraphBuilder, value: int) -> str:
    return build.constant(np.array([value], dtype=np.int64), "whole")


def add_calendar(build: GraphBuilder, instant: str, part: str, zone: str = "UTC") -> str:
    """A part of the calendar as FP32 (rows,), from INT64 milliseconds since 1970-01-01 UTC; hours have fractions.

    Monday is 0, and so are the first day of a month, January, and 1 January; a leap day does not shift what follows.
    """
    if zone != "UTC":
        instant = build.add("Add", instant, _offset(build, instant, zone))
    in_day = build.add("Mod", instant, _whole(build, _DAY))  # the sign of the divisor: right before 1970 too
    if part == "hour":
        hour = build.constant(np.array([_HOUR], dtype=np.float32), "hour")
        return build.add("Div", build.cast(in_day, TensorProto.FLOAT), hour)
    days = build.add("Div", build.add("Sub", instant, in_day), _whole(build, _DAY))
    if part == "weekday":  # 1970-01-01 was a Thursday
        weekday = build.add("Mod", build.add("Add", days, _whole(build, 3)), _whole(build, 7))
        return build.cast(weekday, TensorProto.FLOAT)
    return _add_civil(build, days, part)


def _add_civil(build: GraphBuilder, days: str, part: str) -> str:
    """Howard Hinnant, "chrono-compatible low-level date algorithms" (2013): whole numbers only, a year begins in March.

    Five eras of 400 years are added so that nothing divided is negative.
    """
    whole = functools.partial(_whole, build)
    of_era = build.add("Mod", build.add("Add", days, whole(719468 + 146097 * 5)), whole(146097))
    less = build.add("Sub", of_era, build.add("Div", of_era, whole(1460)))
    less = build.add("Add", less, build.add("Div", of_era, whole(36524)))
    less = build.add("Sub", less, build.add("Div", of_era, whole(146096)))
    year = build.add("Div", less, whole(365))
    leaps = build.add("Sub", build.add("Div", year, whole(4)), build.add("Div", year, whole(100)))
    of_year = build.add("Sub", of_era, build.add("Add", build.add("Mul", year, whole(365)), leaps))
    if part == "dayofyear":
        return build.cast(
            build.add("Mod", build.add("Add", of_year, whole(59)), whole(365)), TensorProto.FLOAT
        )
    month = build.add("Div", build.add("Add", build.add("Mul", of_year, whole(5)), whole(2)), whole(153))
    if part == "month":
        return build.cast(build.add("Mod", build.add("Add", month, whole(2)), whole(12)), TensorProto.FLOAT)
    before = build.add("Div", build.add("Add", build.add("Mul", month, whole(153)), whole(2)), whole(5))
    return build.cast(build.add("Sub", of_year, before), TensorProto.FLOAT)


def _offset(build: GraphBuilder, instant: str, zone: str) -> str:
    """Milliseconds that the zone's clock is ahead of UTC at each instant."""
    changes, offsets = clock_changes(zone)
    if not changes:
        return _whole(build, offsets[0])
    passed = build.add(
        "GreaterOrEqual", build.column(instant), build.constant(np.array(changes, dtype=np.int64), "changes")
    )  # (rows, changes)
    axis = build.constant(np.array([1], dtype=np.int64), "axis")
    count = build.add("ReduceSum", build.cast(passed, TensorProto.INT32), axis, keepdims=0)
    return build.add("Gather", build.constant(np.array(offsets, dtype=np.int64), "offsets"), count)


@functools.cache
def clock_changes(zone: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Instants (ms) at which a zone's offset changes, and the offsets (ms) before, between and after them."""
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
