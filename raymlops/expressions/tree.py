"""The tree of a parsed expression: literals, columns, and calls of functions of the list. Frozen values."""

import dataclasses
from collections.abc import Iterator
from typing import TypeAlias

Value: TypeAlias = bool | int | float | str


@dataclasses.dataclass(frozen=True)
class Literal:
    value: Value


@dataclasses.dataclass(frozen=True)
class Column:
    name: str


@dataclasses.dataclass(frozen=True)
class Call:
    """A function of the list, or an operator: add, lt, and, isin ..."""

    function: str
    arguments: "tuple[Tree, ...]"


Tree: TypeAlias = Literal | Column | Call

CALENDAR = ("year", "quarter", "month", "day", "dayofyear", "weekday", "hour", "minute", "second")
"""Parts of a timestamp; numbered as in pandas (January is 1, Monday 0), `hour` with its fraction."""


def is_calendar(call: Call) -> bool:
    """Whether it takes a timestamp and an optional time zone, instead of values."""
    return call.function.removeprefix("dt_") in CALENDAR


def walk(tree: Tree) -> Iterator[Tree]:
    """The tree's nodes, without the time zones of calendar functions, which are not values."""
    yield tree
    if isinstance(tree, Call):
        for argument in tree.arguments[:1] if is_calendar(tree) else tree.arguments:
            yield from walk(argument)


def columns_of(tree: Tree) -> tuple[str, ...]:
    """The columns that a tree reads, in the order of first use."""
    return tuple(dict.fromkeys(node.name for node in walk(tree) if isinstance(node, Column)))
