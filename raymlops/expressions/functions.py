"""The functions of expressions, and how each may be spelled. No other function can be called."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

from raymlops.expressions.tree import CALENDAR, Call, Literal, Tree, Value

MANY = 100


@dataclasses.dataclass(frozen=True)
class Function:
    """How many arguments a function takes, which of them must be literals, and which backends compute it."""

    least: int
    most: int
    in_models: bool = False
    literals: tuple[int, ...] = ()
    options: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    """Keyword -> its default; keyword values follow the other arguments."""
    becomes: Callable[..., Tree] | None = None
    """Composed of other functions."""


def _as(name: str) -> Callable[..., Tree]:
    return lambda *arguments: Call(name, arguments)


def _not_null(value: Tree) -> Tree:
    return Call("not", (Call("isnull", (value,)),))


def _between(value: Tree, low: Tree, high: Tree) -> Tree:
    return Call("and", (Call("ge", (value, low)), Call("le", (value, high))))


def _clip(value: Tree, low: Tree, high: Tree) -> Tree:
    return Call("min", (Call("max", (value, low)), high))


def _concat(*parts: Tree) -> Tree:
    return functools.reduce(lambda left, right: Call("add", (left, right)), parts)


def _match(value: Tree, pattern: Tree, end: str = "") -> Tree:
    text = pattern.value if isinstance(pattern, Literal) else ""
    return Call("contains", (value, Literal(f"^(?:{text}){end}"), Literal(True), Literal(True)))


_ELEMENTWISE = (
    *("abs", "sqrt", "exp", "log", "log10", "log1p", "floor", "ceil"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
)
_TESTS = ("isdigit", "isalpha", "isalnum", "isnumeric", "isspace", "isupper", "islower")
_TEXT = ("lower", "upper", "title", "capitalize", "len", *_TESTS)

FUNCTIONS: dict[str, Function] = {
    **dict.fromkeys(_ELEMENTWISE, Function(1, 1, in_models=True)),
    **{f"arc{name[1:]}": Function(1, 1, True, becomes=_as(name)) for name in _ELEMENTWISE if name in
       ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
    "round": Function(1, 2, in_models=True, literals=(1,)),
    "min": Function(2, MANY, in_models=True),
    "max": Function(2, MANY, in_models=True),
    "where": Function(3, 3, in_models=True),
    "coalesce": Function(2, MANY, in_models=True),
    "fillna": Function(2, 2, in_models=True, becomes=_as("coalesce")),
    "isnull": Function(1, 1, in_models=True),
    **dict.fromkeys(("isna", "isnan"), Function(1, 1, in_models=True, becomes=_as("isnull"))),
    **dict.fromkeys(("notnull", "notna"), Function(1, 1, in_models=True, becomes=_not_null)),
    "between": Function(3, 3, in_models=True, becomes=_between),
    "clip": Function(3, 3, in_models=True, becomes=_clip),
    "int": Function(1, 1, in_models=True),
    "float": Function(1, 1, in_models=True),
    "bool": Function(1, 1, in_models=True),
    "str": Function(1, 1),
    "timestamp": Function(1, 1),
    "to_datetime": Function(1, 1, becomes=_as("timestamp")),
    **dict.fromkeys(CALENDAR, Function(1, 2, in_models=True, literals=(1,))),
    **dict.fromkeys((f"dt_{name}" for name in CALENDAR), Function(1, 1, in_models=True)),
    "total_seconds": Function(1, 1),
    **dict.fromkeys(_TEXT, Function(1, 1)),
    **dict.fromkeys(("strip", "lstrip", "rstrip"), Function(1, 2, literals=(1,))),
    "contains": Function(2, 2, literals=(1,), options={"case": True, "regex": True}),
    "startswith": Function(2, 2, literals=(1,)),
    "endswith": Function(2, 2, literals=(1,)),
    "match": Function(2, 2, literals=(1,), becomes=_match),
    "fullmatch": Function(2, 2, literals=(1,), becomes=lambda value, pattern: _match(value, pattern, "$")),
    "replace": Function(3, 3, literals=(1, 2), options={"regex": False}),
    "slice": Function(2, 3, literals=(1, 2)),
    "get": Function(2, 2, literals=(1,)),
    "concat": Function(2, MANY, becomes=_concat),
}  # fmt: skip
"""Name -> arguments. A name with `dt_` is the pandas accessor of a timestamp in the column's own time zone."""

TEXT_PREDICATES = ("contains", "startswith", "endswith", "match", "fullmatch")
"""Functions that take `na=`, the result for missing texts, as in pandas."""

ACCESSORS: dict[str, dict[str, str]] = {
    "str": {
        name: name
        for name in (*_TEXT, *TEXT_PREDICATES, "strip", "lstrip", "rstrip", "replace", "slice", "get")
    },
    "dt": {
        **{name: f"dt_{name}" for name in CALENDAR},
        **dict.fromkeys(("dayofweek", "day_of_week"), "dt_weekday"),
        "day_of_year": "dt_dayofyear",
        "total_seconds": "total_seconds",
    },
}
"""pandas' spelling `column.str.lower()` -> the function."""

METHODS = {
    **{
        name: name
        for name in ("isnull", "isna", "notnull", "notna", "fillna", "abs", "round", "between", "clip")
    },
}
"""pandas' spelling `column.isnull()` -> the function."""

CASTS = {
    **dict.fromkeys(("int", "int64", "Int64"), "int"),
    **dict.fromkeys(("float", "float64", "Float64"), "float"),
    **dict.fromkeys(("str", "string", "object"), "str"),
    **dict.fromkeys(("bool", "boolean"), "bool"),
    **dict.fromkeys(("datetime64[ns]", "datetime64[us]", "datetime64[ms]", "datetime64"), "timestamp"),
}
"""pandas' spelling `column.astype('int')` -> the function."""

ON_ALL_ROWS = frozenset(
    ("mean", "sum", "min", "max", "std", "var", "median", "count", "nunique", "unique", "quantile", "rank",
     "shift", "diff", "cumsum", "cumprod", "cummax", "cummin", "rolling", "expanding", "ewm",
     "sort_values", "duplicated", "drop_duplicates", "mode", "idxmax", "idxmin", "pct_change", "groupby", "transform")
)  # fmt: skip
"""Methods of pandas that need the whole column; a block holds only some of its rows."""

CONSTANTS = {"pi": 3.141592653589793}
