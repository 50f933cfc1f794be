"""Evaluates an expression on the columns of an arrow table. Parses nothing, and does not import Ray."""

import functools
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from raymlops import expressions
from raymlops.data import column_functions, row_keys
from raymlops.data.column_values import (
    RefusedValueError,
    Value,
    align,
    condition,
    describe,
    floats,
    kind_of,
    known,
    number,
    plain,
)
from raymlops.errors import DataError, unknown_name
from raymlops.expressions import Call, Column, Literal, Tree

LARGEST_TEXTS = 256 * 2**20
"""Limit for the text of one computed column in a block, in bytes, beyond eight times the block's own size."""


def evaluate(table: pa.Table, expression: str, key: str, text_bytes: int | None = None) -> pa.Array:
    """The values of an expression, one per row. `key` names it in errors: `derive.late`.

    Raises DataError for an unknown column, and for values that a function does not accept.
    """
    try:
        tree = expressions.parse(expression)
    except ValueError as error:
        raise DataError(f"dataset.{key}: {error}") from None
    budget = LARGEST_TEXTS + 8 * table.nbytes if text_bytes is None else text_bytes
    columns: dict[str, pa.Array] = {}
    for name in expressions.columns_of(tree):
        if name not in table.column_names:
            known = row_keys.drop_keys(table).column_names
            raise DataError(f"dataset.{key}: {unknown_name('column', name, known)}")
        columns[name] = plain(table[name])
    try:
        found = _evaluate(tree, columns, budget)
    except (RefusedValueError, pa.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"dataset.{key}: {expression!r} failed: {_explain(error)}") from None
    return pa.repeat(found, table.num_rows) if isinstance(found, pa.Scalar) else found


def evaluate_condition(table: pa.Table, expression: str, key: str) -> pa.Array:
    """Like `evaluate`, for a filter: true or false; a number is true unless it is 0; never null."""
    found = evaluate(table, expression, key)
    try:
        return pc.fill_null(condition(found, numbers=True), False)
    except RefusedValueError as error:
        raise DataError(f"dataset.{key}: {expression!r} failed: {error}") from None


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    if text.lower().startswith("overflow"):
        return "a whole number leaves 64 bits; write float(column) in place of a column"
    return text


def _evaluate(tree: Tree, columns: dict[str, pa.Array], budget: int) -> Value:
    if isinstance(tree, Column):
        return columns[tree.name]
    if isinstance(tree, Literal):
        return pa.scalar(tree.value)
    values = [
        argument
        if isinstance(argument, Literal) and place in _literals(tree)
        else _evaluate(argument, columns, budget)
        for place, argument in enumerate(tree.arguments)
    ]
    if tree.function in column_functions.SIZED:
        return column_functions.SIZED[tree.function](budget, *values)
    return _FUNCTIONS[tree.function](*values)


def _literals(call: Call) -> tuple[int, ...]:
    """Positions of arguments that the function takes as literals."""
    function = expressions.FUNCTIONS.get(call.function)
    if call.function == "isin":
        return tuple(range(1, len(call.arguments)))
    if function is None:
        return ()
    options = range(len(call.arguments) - len(function.options), len(call.arguments))
    return (*function.literals, *options)


def _arithmetic(compute: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    def run(left: Value, right: Value) -> Value:
        return known(compute(*align(number(left), number(right), "arithmetic")))

    return run


def _subtract(left: Value, right: Value) -> Value:
    if "instant" in (kind_of(left), kind_of(right)):
        return pc.subtract(*align(left, right, "-"))
    return _arithmetic(pc.subtract_checked)(left, right)


def _divide(left: Value, right: Value) -> Value:
    left, right = align(number(left), number(right), "/")
    if not pa.types.is_floating(left.type):
        left, right = floats(left, "/"), floats(right, "/")
    return known(pc.divide(left, right))


def _without_zeros(value: Value) -> Value:
    return pc.if_else(pc.equal(value, 0), pa.scalar(None, value.type), value)


def _divide_down(left: Value, right: Value) -> Value:
    """Python's //: rounds towards minus infinity. Integers by 0 are missing."""
    left, right = align(number(left), number(right), "//")
    if pa.types.is_floating(left.type):
        return known(pc.floor(pc.divide(left, right)))
    right = _without_zeros(right)
    quotient = pc.divide_checked(left, right)
    rest = pc.subtract(left, pc.multiply(quotient, right))
    lower = pc.and_(pc.not_equal(rest, 0), pc.not_equal(pc.less(rest, 0), pc.less(right, 0)))
    return pc.subtract(quotient, lower.cast(pa.int64()))


def _modulo(left: Value, right: Value) -> Value:
    """Python's %: has the sign of the divisor. Integers by 0 are missing."""
    left, right = align(number(left), number(right), "%")
    if pa.types.is_floating(left.type):
        return column_functions.float_modulo(left, right)
    right = pc.if_else(
        pc.equal(right, -1), pa.scalar(1, right.type), _without_zeros(right)
    )  # the smallest integer divided by -1 overflows
    rest = pc.subtract(left, pc.multiply(pc.divide(left, right), right))
    wrong = pc.and_(pc.not_equal(rest, 0), pc.not_equal(pc.less(rest, 0), pc.less(right, 0)))
    return pc.if_else(wrong, pc.add(rest, right), rest)


def _power(left: Value, right: Value) -> Value:
    left, right = align(number(left), number(right), "**")
    if pa.types.is_floating(left.type):
        return known(pc.power(left, right))
    if isinstance(right, pa.Scalar) and right.is_valid and right.as_py() < 0:
        return known(pc.power(floats(left, "**"), floats(right, "**")))
    if pc.any(pc.less(right, 0)).as_py():
        raise RefusedValueError("an integer has a negative power; write float(...) around the base")
    return pc.power_checked(left, right)


def _comparison(compute: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    def run(left: Value, right: Value) -> Value:
        return compute(*align(known(left), known(right), "a comparison"))

    return run


def _joined(compute: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    return lambda *parts: functools.reduce(compute, [condition(part) for part in parts])


def _is_in(value: Value, *items: Literal) -> Value:
    """A missing value is neither in a list nor outside of it: the result is missing."""
    value = known(value)
    literals = [pa.scalar(item.value) for item in items]
    found = [_COMPARE["eq"](value, literal) for literal in literals] if _is_mixed(value, items) else None
    if found is not None:
        return functools.reduce(pc.or_kleene, found)
    wanted = pa.array([align(value, literal, "in")[1].as_py() for literal in literals], value.type)
    return pc.if_else(pc.is_null(value), pa.scalar(None, pa.bool_()), pc.is_in(value, value_set=wanted))


def _is_mixed(value: Value, items: tuple[Literal, ...]) -> bool:
    """Whether the list holds values of another type than the column's."""
    if isinstance(value, pa.Scalar):
        return True
    types = {type(item.value) for item in items}
    if pa.types.is_string(value.type) or pa.types.is_large_string(value.type):
        return types != {str}
    return not (pa.types.is_int64(value.type) and types == {int}) and not (
        pa.types.is_float64(value.type) and types <= {int, float}
    )


def _is_null(value: Value) -> Value:
    return pc.is_null(value, nan_is_null=pa.types.is_floating(value.type))


def _where(chosen: Value, then: Value, otherwise: Value) -> Value:
    chosen = condition(chosen, numbers=True)
    then, otherwise = align(known(then), known(otherwise), "where")
    found = pc.if_else(chosen, then, otherwise)
    nothing = pa.scalar(None, found.type)
    return pc.if_else(pc.is_null(chosen), nothing, found)


def _coalesce(*values: Value) -> Value:
    def either(left: Value, right: Value) -> Value:
        return pc.coalesce(*align(known(left), known(right), "coalesce"))

    return functools.reduce(either, values)


def _extreme(compute: Callable[..., Value], name: str) -> Callable[..., Value]:
    def run(*values: Value) -> Value:
        def pair(left: Value, right: Value) -> Value:
            left, right = align(known(left), known(right), name)
            if kind_of(left) == "boolean":
                left, right = number(left), number(right)
            if kind_of(left) not in ("number", "instant"):
                raise RefusedValueError(f"{name} takes numbers or timestamps, and got {describe(left)}")
            return compute(left, right, skip_nulls=False)

        return functools.reduce(pair, values)

    return run


_COMPARE = {
    "lt": _comparison(pc.less),
    "le": _comparison(pc.less_equal),
    "gt": _comparison(pc.greater),
    "ge": _comparison(pc.greater_equal),
    "eq": _comparison(pc.equal),
    "ne": _comparison(pc.not_equal),
}

_FUNCTIONS: dict[str, Callable[..., Value]] = {
    **_COMPARE,
    "sub": _subtract,
    "mul": _arithmetic(pc.multiply_checked),
    "div": _divide,
    "floordiv": _divide_down,
    "mod": _modulo,
    "pow": _power,
    "neg": lambda value: pc.negate_checked(number(value)),
    "and": _joined(pc.and_kleene),
    "or": _joined(pc.or_kleene),
    "not": lambda value: pc.invert(condition(value)),
    "isin": _is_in,
    "isnull": _is_null,
    "where": _where,
    "coalesce": _coalesce,
    "min": _extreme(pc.min_element_wise, "min"),
    "max": _extreme(pc.max_element_wise, "max"),
    **column_functions.FUNCTIONS,
}
