"""Faults as they are met in production, made in the rows of a table: the sixteen of the first comparison and ten more.
Measures nothing.

A fault changes rows in the columns of a role, and gives the columns one of which is to be named as the cause; after it
the model answers anew.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.monitored_tables import SCORE, Monitored, Roles


@dataclasses.dataclass(frozen=True)
class Context:
    rows: pd.DataFrame
    """Changed in place: a copy."""
    roles: Roles
    usual: pd.DataFrame
    random: np.random.Generator

    def draw(self, share: float) -> npt.NDArray[np.bool_]:
        """Which rows a fault reaches."""
        return self.random.random(len(self.rows)) < share

    def change(self, column: str, make: Callable[[pd.Series], object], where: object = slice(None)) -> str:
        held = self.rows[column]
        self.rows.loc[where, column] = make(held[where])
        return column

    def scale(self, column: str) -> float:
        return float(self.usual[column].std())

    def segment(self) -> npt.NDArray[np.bool_]:
        return np.logical_and.reduce(
            [self.rows[name].to_numpy(object) == value for name, value in self.roles.segment.items()]
        )

    def group(self) -> npt.NDArray[np.bool_]:
        name, value = self.roles.group
        return np.asarray(self.rows[name].to_numpy(object) == value)


Causes = tuple[str, ...]
Fault = Callable[[Context], Causes]


def _step(by: int) -> Fault:
    def make(one: Context) -> Causes:
        period = one.roles.period
        return (one.change(one.roles.stepped, lambda held: (held + by) % period if period else held + by),)

    return make


def _shift(by: float) -> Fault:
    return lambda one: (one.change(one.roles.number, lambda held: held + by * one.scale(one.roles.number)),)


def _swap(one: Context) -> Causes:
    first, second = one.roles.swapped
    one.rows[[first, second]] = one.rows[[second, first]].to_numpy()
    return first, second


def _permute(share: float) -> Fault:
    """The column's own distribution stays."""

    def make(one: Context) -> Causes:
        places = one.draw(share)
        return (
            one.change(
                one.roles.number, lambda held: one.random.choice(one.usual[held.name], len(held)), places
            ),
        )

    return make


def _move_group(one: Context) -> Causes:
    return (one.change(one.roles.moved, lambda held: held + one.roles.by, one.group()),)


SIXTEEN: dict[str, Fault] = {
    "5% nulls": lambda one: (one.change(one.roles.number, lambda held: np.nan, one.draw(0.05)),),
    "new category 2%": lambda one: (one.change(one.roles.category, lambda held: "ZZ", one.draw(0.02)),),
    "-1 in 1%": lambda one: (one.change(one.roles.positive, lambda held: -1.0, one.draw(0.01)),),
    "x1000": lambda one: (one.change(one.roles.positive, lambda held: held * 1000),),
    "F to C": lambda one: (one.change(one.roles.number, lambda held: (held - 32) / 1.8),),
    "frozen": lambda one: (
        one.change(one.roles.number, lambda held: float(one.usual[held.name].dropna().iloc[0])),
    ),
    "lost column": lambda one: (one.change(one.roles.number, lambda held: np.nan),),
    "mph to knots": lambda one: (one.change(one.roles.scaled, lambda held: held * 0.868976),),
    "+5": _step(5),
    "+1": _step(1),
    "swapped columns": _swap,
    "shift 0.10 sd": _shift(0.10),
    "shift 0.25 sd": _shift(0.25),
    "joint shift": _permute(1.0),
    "nulls in a segment": lambda one: (
        one.change(one.roles.number, lambda held: np.nan, one.segment() & one.draw(0.5)),
    ),
    "a group moved": _move_group,
}


def _keep_one_digit(held: pd.Series) -> pd.Series:
    values = held.to_numpy(np.float64)
    places = np.power(10.0, np.floor(np.log10(np.maximum(np.abs(values), 1e-9))))
    return pd.Series(np.round(values / places) * places, held.index)


def _lose_rows(one: Context) -> Causes:
    """Half of the rows of a group do not arrive; others take their places."""
    places = one.group() & one.draw(0.5)
    others = one.usual[one.usual[one.roles.group[0]] != one.roles.group[1]]
    drawn = others.iloc[one.random.integers(0, len(others), int(places.sum()))]
    one.rows.loc[places, list(drawn.columns)] = drawn.to_numpy(object)
    return (one.roles.group[0],)


def _merge_values(one: Context) -> Causes:
    """The second most frequent value is written as the most frequent."""
    first, second = one.usual[one.roles.category].value_counts().index[:2]
    return (one.change(one.roles.category, lambda held: first, one.rows[one.roles.category] == second),)


def _clip(one: Context) -> Causes:
    limit = float(one.usual[one.roles.number].quantile(0.9))
    return (one.change(one.roles.number, lambda held: held.clip(upper=limit)),)


FURTHER: dict[str, Fault] = {
    "lower case 3%": lambda one: (
        one.change(one.roles.category, lambda held: held.str.lower() + " ", one.draw(0.03)),
    ),
    "9999 in 1%": lambda one: (one.change(one.roles.scaled, lambda held: 99_999.0, one.draw(0.01)),),
    "a tenth in another unit": lambda one: (
        one.change(one.roles.number, lambda held: (held - 32) / 1.8, one.draw(0.1)),
    ),
    "one digit left": lambda one: (one.change(one.roles.number, _keep_one_digit),),
    "clipped at its 90%": _clip,
    "10% filled with the mean": lambda one: (
        one.change(one.roles.number, lambda held: float(one.usual[held.name].mean()), one.draw(0.1)),
    ),
    "20% joined with other rows": _permute(0.2),
    "noise of 0.25 sd": lambda one: (
        one.change(
            one.roles.number,
            lambda held: held + one.random.normal(0, 0.25 * one.scale(one.roles.number), len(held)),
        ),
    ),
    "half of a group lost": _lose_rows,
    "two values merged": _merge_values,
}

FAULTS = {**SIXTEEN, **FURTHER}


def break_rows(
    table: Monitored, rows: pd.DataFrame, fault: str, random: np.random.Generator
) -> tuple[pd.DataFrame, Causes]:
    """Rows with a fault and the answers that they get, and what the cause may be called. Rows may repeat."""
    held = rows.reset_index(drop=True).copy()
    for name in table.categories:
        held[name] = held[name].astype(object)
    context = Context(held, table.roles, table.rows, random)
    causes = FAULTS[fault](context)
    numbers = dict.fromkeys((*table.numbers, SCORE), np.float64)
    return table.rescore(context.rows.astype(numbers)), causes
