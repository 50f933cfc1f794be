"""Feature expressions as ONNX nodes of standard operators, in FP32. Does not depend on fitted values."""

import functools
import math
from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from raymlops import expressions
from raymlops.expressions import Call, Column, Literal, Tree
from raymlops.features import MISSING_INSTANT
from raymlops.models import calendar
from raymlops.onnx_builder import GraphBuilder

_Add = Callable[..., str]

_COMPARE = {
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "eq": "Equal",
    "ne": "Equal",
}
_OPERATORS = {
    **{
        name: name.capitalize()
        for name in ("abs", "sqrt", "log", "exp", "floor", "ceil", "add", "sub", "mul", "div")
    },
    **{
        name: name.capitalize()
        for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh")
    },
    **{name: name.capitalize() for name in ("asinh", "acosh", "atanh", "neg", "pow", "min", "max")},
    "float": "Identity",
}
"""Functions that a single ONNX operator computes."""


def add_formula(build: GraphBuilder, expression: str, column: Callable[[str], str]) -> str:
    """The nodes of an expression; `column` names the tensor of a raw column: FP32, or INT64 for a timestamp."""
    return _add(build, expressions.parse_feature(expression), column)


def _add(build: GraphBuilder, node: Tree, column: Callable[[str], str]) -> str:
    if isinstance(node, Literal):
        return _number(build, float(node.value))
    if isinstance(node, Column):
        return column(node.name)
    if expressions.is_calendar(node):
        return _add_calendar_call(build, node, column)
    if node.function == "round" and len(node.arguments) == 2:
        return _round_to_places(build, _add(build, node.arguments[0], column), node.arguments[1])
    inner = [_add(build, argument, column) for argument in node.arguments]
    if node.function in _COMPARE:
        return _compare(build, node.function, *inner)
    if node.function in ("min", "max"):
        return functools.reduce(functools.partial(_extreme, build, node.function), inner)
    if node.function in _OPERATORS:
        return build.add(_OPERATORS[node.function], *inner)
    return _FUNCTIONS[node.function](build, *inner)


def _compare(build: GraphBuilder, function: str, left: str, right: str) -> str:
    """1 or 0; 0 if a side is missing, for `ne` too."""
    found = build.cast(build.add(_COMPARE[function], left, right), TensorProto.FLOAT)
    if function != "ne":
        return found
    known = [_not(build, _missing(build, side)) for side in (left, right)]
    return functools.reduce(lambda a, b: build.add("Mul", a, b), known, _not(build, found))


def _extreme(build: GraphBuilder, function: str, left: str, right: str) -> str:
    return build.add(_OPERATORS[function], left, right)


def _not(build: GraphBuilder, truth: str) -> str:
    return build.add("Sub", _number(build, 1), truth)


def _all(build: GraphBuilder, *parts: str) -> str:
    return functools.reduce(lambda a, b: build.add("Mul", a, b), [_truth(build, part) for part in parts])


def _any(build: GraphBuilder, *parts: str) -> str:
    return functools.reduce(lambda a, b: build.add("Max", a, b), [_truth(build, part) for part in parts])


def _is_in(build: GraphBuilder, value: str, *items: str) -> str:
    return _any(build, *[_compare(build, "eq", value, item) for item in items])


def _choose(build: GraphBuilder, condition: str, then: str, otherwise: str) -> str:
    return build.add("Where", build.cast(_truth(build, condition), TensorProto.BOOL), then, otherwise)


def _coalesce(build: GraphBuilder, *values: str) -> str:
    first, *others = values
    for other in others:
        first = build.add("Where", build.add("IsNaN", first), other, first)
    return first


def _divide_down(build: GraphBuilder, left: str, right: str) -> str:
    return build.add("Floor", build.add("Div", left, right))


def _modulo(build: GraphBuilder, left: str, right: str) -> str:
    return build.add("Sub", left, build.add("Mul", _divide_down(build, left, right), right))


def _truncate(build: GraphBuilder, value: str) -> str:
    negative = build.add("Less", value, _number(build, 0))
    return build.add("Where", negative, build.add("Ceil", value), build.add("Floor", value))


def _round_to_places(build: GraphBuilder, value: str, places: Tree) -> str:
    assert isinstance(places, Literal)
    scale = _number(build, 10.0 ** float(places.value))
    return build.add("Div", build.add("Round", build.add("Mul", value, scale)), scale)


def _log_of_more(build: GraphBuilder, value: str) -> str:
    return build.add("Log", build.add("Add", value, _number(build, 1)))


_FUNCTIONS: dict[str, _Add] = {
    "not": lambda build, value: _not(build, _truth(build, value)),
    "and": _all,
    "or": _any,
    "isin": _is_in,
    "isnull": lambda build, value: _missing(build, value),
    "where": _choose,
    "coalesce": _coalesce,
    "floordiv": _divide_down,
    "mod": _modulo,
    "int": _truncate,
    "bool": lambda build, value: _truth(build, value),
    "round": lambda build, value: build.add("Round", value),
    "log10": lambda build, value: build.add("Div", build.add("Log", value), _number(build, math.log(10))),
    "log1p": _log_of_more,
}


def _add_calendar_call(build: GraphBuilder, node: Call, column: Callable[[str], str]) -> str:
    instant, *given = node.arguments
    assert isinstance(instant, Column)
    zone = str(given[0].value) if given and isinstance(given[0], Literal) else "UTC"
    tensor, part = column(instant.name), node.function.removeprefix("dt_")
    found = calendar.add_numbered(build, tensor, part, zone)
    if node.function == "dt_hour":
        found = build.add("Floor", found)
    missing = build.add("Equal", tensor, calendar.whole(build, MISSING_INSTANT))
    return build.add("Where", missing, _number(build, math.nan), found)


def _truth(build: GraphBuilder, tensor: str) -> str:
    """1 where a value is neither 0 nor missing."""
    found = build.add("Greater", build.add("Abs", tensor), _number(build, 0))
    return build.cast(found, TensorProto.FLOAT)


def _missing(build: GraphBuilder, tensor: str) -> str:
    return build.cast(build.add("IsNaN", tensor), TensorProto.FLOAT)


def _number(build: GraphBuilder, value: float) -> str:
    return build.constant(np.array([value], dtype=np.float32), "number")
