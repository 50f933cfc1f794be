"""Expressions of every function over columns of every type, mostly senseless and some broken: none may end otherwise
than with values or a sentence."""

import datetime
import decimal
import random

import pyarrow as pa

from raymlops.expressions.functions import ACCESSORS, CASTS, FUNCTIONS, METHODS

_SIGNS = [*"`'\"()[].,:@#&|~_\\\x00\n{}=!*ｏ", "__", "lambda ", "if ", "for "]
_LITERALS = ("0", "1", "-1", "2.5", "'a'", "'2020-01-01'", "''", "True", "False", "pi", "9223372036854775807", "1e308",
             "'UTC'", "'Europe/Rome'", "3", "'['", "'\\\\1'")  # fmt: skip


def table() -> pa.Table:
    """Three rows of each type, nulls and odd values among them."""
    day, utc = datetime.datetime(2020, 1, 1), "Europe/Rome"
    return pa.table(
        {
            "i": pa.array([1, -3, None], pa.int64()),
            "small": pa.array([1, 2, None], pa.uint8()),
            "u": pa.array([2**64 - 1, 1, None], pa.uint64()),
            "x": [1.5, float("nan"), float("inf")],
            "h": pa.array([1, 2, 3], pa.float32()).cast(pa.float16()),
            "f": pa.array([0.1, None, 3], pa.float32()),
            "p": [True, False, None],
            "s": ["a", "12", None],
            "large": pa.array(["b", "", "ü"], pa.large_string()),
            "d": pa.array(["u", "v", None]).dictionary_encode(),
            "view": pa.array(["q", None, "r"], pa.string_view()),
            "w": pa.array([day, None, datetime.datetime(1900, 1, 1)], pa.timestamp("ns")),
            "z": pa.array([day, None, datetime.datetime(2030, 1, 1)], pa.timestamp("s", tz=utc)),
            "day": pa.array([day.date(), None, datetime.date(1, 1, 1)], pa.date32()),
            "t": pa.array([datetime.time(1), None, datetime.time(2)], pa.time64("us")),
            "dur": pa.array([1, None, 3], pa.duration("ms")),
            "n": pa.nulls(3),
            "l": [[1], None, [2]],
            "st": [{"a": 1}, None, {"a": 2}],
            "b": pa.array([b"x", None, b"\xff"], pa.binary()),
            "dec": pa.array([decimal.Decimal("1.00"), None, decimal.Decimal("3.10")]),
            "a b": ["x", "y", "z"],
        }
    )


class Soup:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._columns = [f"`{name}`" if " " in name else name for name in table().column_names]

    def draw(self) -> str:
        text = self._draw(self._random.randint(1, 4))
        if self._random.random() < 0.2:
            for _ in range(self._random.randint(1, 3)):
                place = self._random.randrange(len(text) + 1)
                text = text[:place] + self._random.choice(_SIGNS) + text[place:]
        return text

    def _draw(self, depth: int) -> str:
        pick = self._random.choice
        if depth == 0 or self._random.random() < 0.15:
            return pick(self._columns) if self._random.random() < 0.75 else pick(_LITERALS)
        kinds = (self._operation, self._list, self._call, self._call, self._accessor, self._method)
        return pick(kinds)(depth - 1)

    def _operation(self, depth: int) -> str:
        signs = ("+", "-", "*", "/", "//", "%", "**", "<", "<=", "==", "!=", "and", "or", "&", "|")
        if self._random.random() < 0.2:
            return f"{self._random.choice(['not ', '-', '~', '+'])}({self._draw(depth)})"
        return f"({self._draw(depth)} {self._random.choice(signs)} {self._draw(depth)})"

    def _list(self, depth: int) -> str:
        items = ", ".join(self._random.choice(_LITERALS) for _ in range(self._random.randint(1, 3)))
        return f"({self._draw(depth)} {self._random.choice(['in', 'not in', '==', '!='])} [{items}])"

    def _call(self, depth: int) -> str:
        name = self._random.choice(list(FUNCTIONS))
        function = FUNCTIONS[name]
        count = self._random.randint(function.least, min(function.most, function.least + 2))
        given = [
            self._random.choice(_LITERALS) if place in function.literals else self._draw(depth)
            for place in range(count)
        ]
        return f"{name}({', '.join(given)})"

    def _accessor(self, depth: int) -> str:
        accessor = self._random.choice(list(ACCESSORS))
        name = self._random.choice(list(ACCESSORS[accessor]))
        given = ", ".join(self._random.choice(_LITERALS) for _ in range(self._random.randint(0, 2)))
        called = "" if accessor == "dt" and name != "total_seconds" else f"({given})"
        return f"({self._draw(depth)}).{accessor}.{name}{called}"

    def _method(self, depth: int) -> str:
        if self._random.random() < 0.3:
            return f"({self._draw(depth)}).astype({self._random.choice(list(CASTS))!r})"
        given = ", ".join(self._draw(depth) for _ in range(self._random.randint(0, 2)))
        return f"({self._draw(depth)}).{self._random.choice(list(METHODS))}({given})"
