"""The language of feature expressions: what it has, and checks of it. Evaluates nothing.

Python's arithmetic over column names, computed in FP32, missing values as NaN. Comparisons and `and`, `or`,
`not` give 0 or 1, and a comparison with a missing value gives 0. models/formulas.py makes ONNX of it.
"""

import ast
import zoneinfo

from raymlops.errors import unknown_name

_ONE = ("abs", "sqrt", "log", "exp", "sin", "cos", "floor", "isnan")
FUNCTIONS = {**dict.fromkeys(_ONE, 1), "min": 2, "max": 2, "where": 3}
"""Name -> how many arguments."""

CALENDAR = ("hour", "weekday", "day", "month", "dayofyear")
"""Functions of a timestamp column, with a time zone as second argument: `weekday(when, 'Europe/Rome')`.
Monday is 0, and so are the first day, month and day of the year."""

CONSTANTS = {"pi": 3.141592653589793}

_STRUCTURE = (ast.Expression, ast.Call, ast.Name, ast.Constant, ast.Load)
_OPERATIONS = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd)
_LOGIC = (ast.Not, ast.And, ast.Or, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


def parse(expression: str) -> ast.expr:
    """The expression's tree. Raises ValueError with a sentence for anything that the language does not have."""
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is no expression: {error.msg}") from None
    zones = set()
    for node in ast.walk(tree):
        if not isinstance(node, (*_STRUCTURE, *_OPERATIONS, *_ARITHMETIC, *_LOGIC)):
            raise ValueError(
                f"{expression!r} uses {type(node).__name__}, which feature expressions do not have"
            )
        if isinstance(node, ast.Compare) and len(node.ops) > 1:
            raise ValueError(f"{expression!r} chains comparisons; join them by `and`")
        if isinstance(node, ast.Call):
            _check_call(node, expression)
            zones |= {id(argument) for argument in node.args[1:] if _name_of(node) in CALENDAR}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and id(node) not in zones
            and not isinstance(node.value, (int, float))
        ):
            raise ValueError(f"{expression!r} holds {node.value!r}; an expression computes with numbers only")
    if not _columns_of(tree):
        raise ValueError(f"{expression!r} reads no column")
    return tree.body


def _name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ast.unparse(call.func)


def _check_call(call: ast.Call, expression: str) -> None:
    name = _name_of(call)
    if name in CALENDAR:
        if not 1 <= len(call.args) <= 2 or not isinstance(call.args[0], ast.Name):
            raise ValueError(f"{name} in {expression!r} takes a timestamp column, and maybe a time zone")
        if zone_of(call) not in zoneinfo.available_timezones():
            raise ValueError(f"{name} in {expression!r} takes a time zone such as 'America/New_York'")
        return
    if name not in FUNCTIONS:
        raise ValueError(unknown_name("function", name, [*FUNCTIONS, *CALENDAR]))
    if len(call.args) != FUNCTIONS[name] or call.keywords:
        raise ValueError(f"{name} in {expression!r} takes {FUNCTIONS[name]} arguments, got {len(call.args)}")


def zone_of(call: ast.Call) -> str:
    """The time zone of a calendar call; empty when it is no text."""
    if len(call.args) == 1:
        return "UTC"
    zone = call.args[1]
    return zone.value if isinstance(zone, ast.Constant) and isinstance(zone.value, str) else ""


def columns_in(expression: str) -> tuple[str, ...]:
    """The columns that an expression reads, in the order of their first use."""
    return _columns_of(parse(expression))


def _columns_of(tree: ast.AST) -> tuple[str, ...]:
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called]
    return tuple(dict.fromkeys(name for name in names if name not in CONSTANTS))


def instants_in(expression: str) -> frozenset[str]:
    """The columns that must be timestamps."""
    calls = [node for node in ast.walk(parse(expression)) if isinstance(node, ast.Call)]
    firsts = [call.args[0] for call in calls if _name_of(call) in CALENDAR]
    return frozenset(first.id for first in firsts if isinstance(first, ast.Name))
