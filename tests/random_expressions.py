"""Random expressions by kind, over the columns of one table, in the syntax that ours shares with pandas.eval."""

import random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

TEXTS = ("", "EWR", "JFK", "lga", "São Paulo", "a.b", " pad ", "12")


def table(rows: int, seed: int, nulls: bool, earliest: int = -(10**12)) -> pa.Table:
    """Whole numbers i j, floats x y, booleans p q, texts s t, instants w v, and a column with a space in its name.

    `earliest` bounds the instants, in milliseconds since 1970.
    """
    rng = np.random.default_rng(seed)

    def column(values: object, kind: pa.DataType) -> pa.Array:
        mask = rng.random(rows) < 0.2 if nulls else None
        return pa.array(values, kind, mask=mask)

    instants = rng.integers(earliest, 2 * 10**12, (2, rows)).astype("datetime64[ms]")
    return pa.table(
        {
            "i": column(rng.integers(-20, 20, rows), pa.int64()),
            "j": column(rng.integers(1, 9, rows), pa.int64()),
            "x": column(rng.normal(0, 3, rows), pa.float64()),
            "y": column(rng.uniform(0.5, 4, rows), pa.float64()),
            "wide name": column(rng.normal(0, 2, rows), pa.float64()),
            "p": column(rng.random(rows) < 0.5, pa.bool_()),
            "q": column(rng.random(rows) < 0.3, pa.bool_()),
            "s": column(rng.choice(TEXTS, rows).astype(object), pa.string()),
            "t": column(rng.choice(TEXTS, rows).astype(object), pa.string()),
            "w": column(instants[0], pa.timestamp("ms")),
            "v": column(instants[1], pa.timestamp("ms")),
        }
    )


class Generator:
    """Draws expressions. `arrow` leaves out what pandas does not do on arrow's types."""

    def __init__(self, seed: int, arrow: bool = False) -> None:
        self._random = random.Random(seed)
        self._arrow = arrow

    def draw(self) -> str:
        return self._random.choice([self.condition, self.number, self.text])(3)

    def condition(self, depth: int) -> str:
        pick = self._random.choice
        if depth == 0:
            return pick(["p", "q"])
        n, t, c = (
            (lambda: self.number(depth - 1)),
            (lambda: self.text(depth - 1)),
            (lambda: self.condition(depth - 1)),
        )
        choices = [
            lambda: f"({n()} {pick(['<', '<=', '>', '>=', '==', '!='])} {n()})",
            lambda: f"({n()} < {n()} <= {n()})",
            lambda: f"({t()} {pick(['==', '!=', '<', '>='])} {t()})",
            lambda: f"({c()} {pick(['and', 'or', '&', '|'])} {c()})",
            lambda: f"({pick(['not ', '~'])}({c()}))",
            lambda: f"(i > {pick(['0', '3'])} {pick('&|')} x < 1)",
            lambda: f"({t()}).str.{pick(['contains', 'startswith', 'endswith'])}({pick(['E', 'K', 'a'])!r})",
            lambda: f"({t()}).str.{pick(['isdigit', 'isupper', 'islower', 'isalpha'])}()",
            lambda: f"{pick(['x', 'i', 's', 'w', 'p'])}.{pick(['isnull', 'notnull', 'isna', 'notna'])}()",
            lambda: (
                f"(w {pick(['<', '>=', '>'])} {pick(['v', repr('2001-02-03'), repr('1990-01-01T12:30:00')])})"
            ),
        ]
        if not self._arrow:  # pandas takes a missing value for one that is in no list
            choices += [
                lambda: f"(i {pick(['in', 'not in', '==', '!='])} [1, 2, -3])",
                lambda: f"(s {pick(['in', 'not in'])} ['EWR', 'lga'])",
                lambda: f"x.between({n()}, y)",
            ]
        return pick(choices)()

    def number(self, depth: int) -> str:
        pick = self._random.choice
        if depth == 0:
            return pick(["i", "j", "x", "y", "`wide name`", "2", "0.5", "-3"])
        n, t = (lambda: self.number(depth - 1)), (lambda: self.text(depth - 1))
        choices = [
            lambda: f"({n()} {pick('+-*')} {n()})",
            lambda: f"({n()} / {pick(['j', 'y'])})",
            lambda: f"(i {pick(['//', '/'])} {pick(['j', '4', '-3'])})",
            lambda: f"(x {pick(['//', '/'])} {pick(['y', '0.5', 'j'])})",
            lambda: f"(y ** {pick(['2', '0.5', '3'])})",
            lambda: f"-({n()} + x)",
            lambda: (
                f"(w).dt.{pick(['year', 'month', 'day', 'hour', 'minute', 'day_of_week', 'day_of_year', 'quarter'])}"
            ),
            lambda: f"({t()}).str.len()",
            lambda: f"(x + {n()}).abs()",
            lambda: f"(y + {n()}).fillna({pick(['0', '1.5'])})",
        ]
        if not self._arrow:
            choices += [
                lambda: f"{pick(['sin', 'cos', 'exp', 'floor', 'ceil', 'tanh', 'arctan'])}({pick('yxi')})",
                lambda: f"{pick(['sqrt', 'log', 'log10'])}(y)",
                lambda: f"(i % {pick(['j', '5', '-4'])})",
                lambda: f"(x % {pick(['y', '1.5'])})",
                lambda: f"(x + {n()}).round(1)",
                lambda: f"({self.condition(depth - 1)} + j)",
            ]
        return pick(choices)()

    def text(self, depth: int) -> str:
        pick = self._random.choice
        if depth == 0:
            return pick(["s", "t"])
        t = lambda: self.text(depth - 1)  # noqa: E731
        choices = [
            lambda: f"({t()} + {t()})",
            lambda: f"({t()}).str.{pick(['lower', 'upper', 'strip', 'lstrip', 'title', 'capitalize'])}()",
            lambda: f"({t()}).str.replace({pick(['a', 'E', '.'])!r}, {pick(['', 'zz'])!r})",
            lambda: f"({t()}).str.slice(0, {pick([1, 2, -1])})",
            lambda: f"({t()}).str[1:3]",
        ]
        return pick(choices)()


class FeatureGenerator:
    """Draws feature expressions: what both backends compute, without conditions also where values are missing."""

    def __init__(self, seed: int, conditions: bool = True) -> None:
        self._random = random.Random(seed)
        self._conditions = conditions

    def number(self, depth: int) -> str:
        pick = self._random.choice
        if depth == 0:
            return pick(["i", "j", "x", "y", "`wide name`", "2", "0.5", "pi"])
        n, c = (lambda: self.number(depth - 1)), (lambda: self.condition(depth - 1))
        choices = [
            lambda: f"({n()} {pick('+-*')} {n()})",
            lambda: f"({n()} / {pick(['j', 'y'])})",
            lambda: f"(i {pick(['//', '%'])} {pick(['j', '4', '-3'])})",
            lambda: f"(y ** {pick(['2', '0.5'])})",
            lambda: f"{pick(['min', 'max'])}({n()}, {n()}, x)",
            lambda: f"{pick(['sin', 'cos', 'atan', 'tanh', 'abs', 'log1p', 'sqrt', 'log', 'log10'])}(y)",
            lambda: (
                f"{pick(['year', 'month', 'day', 'dayofyear', 'weekday', 'hour', 'minute', 'quarter'])}(w)"
            ),
            lambda: f"hour(w, {pick(['Europe/Rome', 'America/New_York', 'Asia/Kolkata'])!r})",
            lambda: f"w.dt.{pick(['hour', 'dayofyear', 'year'])}",
            lambda: f"clip({n()}, -2, 5)",
            lambda: f"({n()}).fillna(1.5)",
        ]
        if self._conditions:
            choices += [lambda: f"where({c()}, {n()}, {n()})", lambda: f"({c()} + j)"]
        return pick(choices)()

    def condition(self, depth: int) -> str:
        pick = self._random.choice
        if depth == 0:
            return pick(["(i > 2)", "(x < y)", "(i in [1, 2, 5])", "isnull(x)"])
        n, c = (lambda: self.number(depth - 1)), (lambda: self.condition(depth - 1))
        return pick(
            [
                lambda: f"({n()} {pick(['<', '>='])} {n()})",
                lambda: f"({c()} {pick(['and', 'or', '&', '|'])} {c()})",
                lambda: f"(not {c()})",
                lambda: "(-3 < i <= j)",
            ]
        )()


def check_values(found: pa.ChunkedArray, expected: Any, expression: str) -> None:
    """Whether values are those of pandas, a series or one value for all rows."""
    wanted = expected if isinstance(expected, pd.Series) else [expected] * len(found)
    for got, value in zip(found.to_pylist(), wanted, strict=True):
        if got is None or pd.isna(value):
            assert got is None, expression
            assert pd.isna(value), expression
        elif isinstance(value, str):
            assert got == value, expression
        else:
            np.testing.assert_allclose(got, value, rtol=1e-9, atol=1e-12, err_msg=expression)
