"""Constant folding: computes the arithmetic of literals in an expression once. Powers that are too large are refused
before they are computed."""

import math
from collections.abc import Callable

from raymlops.expressions.tree import Call, Literal, Tree, Value

_WHOLE = 2**63


def check_number(value: Value) -> Value:
    if isinstance(value, int) and not -_WHOLE <= value < _WHOLE:
        raise ValueError("holds a whole number beyond 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is not finite")
    return value


def fold(operation: str, *parts: Tree) -> Tree:
    """The call, or its value if all its arguments are numbers. Raises ValueError if the value does not exist."""
    if operation != "add" and any(
        isinstance(part, Literal) and isinstance(part.value, str) for part in parts
    ):
        raise ValueError(f"computes {operation} of a text; texts are only joined, by +")
    values = [part.value for part in parts if isinstance(part, Literal)]
    if len(values) < len(parts) or any(isinstance(value, str | bool) for value in values):
        return Call(operation, parts)
    left, right = values[0], values[-1]
    assert isinstance(left, int | float)
    assert isinstance(right, int | float)
    try:
        if (
            operation == "pow"
            and isinstance(left, int)
            and isinstance(right, int)
            and abs(left) > 1
            and right > 63
        ):
            raise OverflowError
        found = _FOLD[operation](left, right)
    except ZeroDivisionError:
        raise ValueError("divides by zero") from None
    except OverflowError:
        raise ValueError("holds a power that is too large") from None
    if isinstance(found, complex):
        raise ValueError("takes a root of a negative number")
    return Literal(check_number(found))


_FOLD: dict[str, Callable[[float, float], float | complex]] = {
    "neg": lambda left, _: -left,
    "add": lambda left, right: left + right,
    "sub": lambda left, right: left - right,
    "mul": lambda left, right: left * right,
    "div": lambda left, right: left / right,
    "floordiv": lambda left, right: left // right,
    "mod": lambda left, right: left % right,
    "pow": lambda left, right: left**right,
}
