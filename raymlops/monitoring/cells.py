"""Cells: the places in which the values of a column are counted, fixed with a version. Counts of any rows add in any
order, so replicas, minutes and segments are sums. Decides nothing about the counts.

A column of numbers has 19 cells: missing, below the range, 16 bins of about equal share, above the range. A column of
categories has at most 32: missing, new (in no reference row), other, and its most frequent values.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]
"""The cell of each row, of one column (rows,) or of all (rows, columns)."""
Counts = npt.NDArray[np.int64]

BINS = 16
NUMBER_CELLS = BINS + 3
CATEGORY_CELLS = 32
MISSING, BELOW, ABOVE = 0, 1, NUMBER_CELLS - 1
SUM = CATEGORY_CELLS - 1
"""Of a column of numbers, which has no use for it as a cell: where a sum of its values may be kept, in whole units, so
that sums of replicas are equal in any order."""
NEW, OTHER, FIRST_VALUE = 1, 2, 3
_MARGIN = 0.1
"""Of the distance between the 1st and the 99th percentile: values may leave the reference's range by so much."""
_LARGEST = float(np.finfo(np.float64).max) / 4
MOST_KNOWN = 10_000
"""Values of a column that are known; of a column with more, none is called new."""


@dataclasses.dataclass(frozen=True)
class NumberCells:
    """`low` and `high` end the range; `edges` are the up to 15 bounds between bins, rising, each the smallest value of
    the bin above it."""

    low: float
    high: float
    edges: tuple[float, ...]

    cells = NUMBER_CELLS

    @classmethod
    def from_values(cls, values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> "NumberCells":
        """Of reference values; NaN is missing. Without any value, every number is out of range."""
        numbers = _to_finite(values)
        present = ~np.isnan(numbers)
        held = np.ones(len(numbers)) if weights is None else np.asarray(weights, np.float64)
        numbers, held = numbers[present], held[present]
        if not len(numbers):
            return cls(np.inf, -np.inf, ())
        order = np.argsort(numbers, kind="stable")
        numbers, held = numbers[order], held[order]
        share = np.cumsum(held) / held.sum()

        def at(part: float) -> float:
            return float(numbers[min(int(np.searchsorted(share, part)), len(numbers) - 1)])

        margin = _MARGIN * (at(0.99) / 2 - at(0.01) / 2) * 2
        low = max(float(numbers[0]) - margin, -_LARGEST)
        high = min(float(numbers[-1]) + margin, _LARGEST)
        if numbers[0] >= 0:  # a sign that no reference row has is out of range
            low = max(low, 0.0)
        if numbers[-1] <= 0:
            high = min(high, 0.0)
        edges = _find_edges(numbers, held)
        return cls(low, high, edges)

    def encode(self, values: npt.ArrayLike) -> Codes:
        numbers = _to_finite(values)
        codes = np.searchsorted(self.edges, numbers, side="right") + 2
        codes[numbers < self.low] = BELOW
        codes[numbers > self.high] = ABOVE
        codes[np.isnan(numbers)] = MISSING
        return codes.astype(np.uint8)

    def describe(self, cell: int) -> str:
        """The cell in words: `missing`, `below 0`, `3 to 7`."""
        if cell == MISSING:
            return "missing"
        if self.low > self.high:
            return "numbers, of which the reference has none"
        if cell == BELOW:
            return f"below {self.low:.6g}"
        if cell == ABOVE:
            return f"above {self.high:.6g}"
        place = cell - 2
        low = self.edges[place - 1] if place else self.low
        high = self.edges[place] if place < len(self.edges) else self.high
        return f"{low:.6g} to {high:.6g}"

    def to_json(self) -> dict[str, Any]:
        whole = {"low": self.low, "high": self.high} if self.low <= self.high else {"low": None, "high": None}
        return {"kind": "number", **whole, "edges": list(self.edges)}


def _to_finite(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Infinite ones as the largest numbers, which JSON can hold."""
    return np.nan_to_num(np.asarray(values, np.float64), nan=np.nan, posinf=_LARGEST, neginf=-_LARGEST)


def _find_edges(numbers: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Bounds between bins. A value that has a bin's share or more by itself gets a bin of its own, so that a frozen
    sensor or a default that is filled in stays visible beside its neighbours."""
    values, first = np.unique(numbers, return_index=True)
    shares = np.add.reduceat(weights, first)
    if len(values) <= BINS:
        return tuple(float(value) for value in values[1:])
    edges: list[float] = []
    held, left, bins = 0.0, float(weights.sum()), BINS
    for place, share in enumerate(shares):
        wanted = left / bins
        # close the bin before a value that would fill one of its own, or that would overfill this one by more
        if held and bins > 1 and (share >= wanted or held + share / 2 > wanted):
            edges.append(float(values[place]))
            left, bins, held = left - held, bins - 1, 0.0
        held += share
    return tuple(edges)


@dataclasses.dataclass(frozen=True)
class CategoryCells:
    """`values` have a cell each, most frequent first; `known` are further ones, counted as `other`. If `open_ended`,
    values that are not known are counted as `other`, too: the reference has more than are kept."""

    values: tuple[str, ...]
    known: frozenset[str] = frozenset()
    open_ended: bool = False

    cells = CATEGORY_CELLS

    def __post_init__(self) -> None:
        places = {value: FIRST_VALUE + place for place, value in enumerate(self.values)}
        places.update(dict.fromkeys(self.known, OTHER))
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_unknown", OTHER if self.open_ended else NEW)

    @classmethod
    def from_counts(cls, counts: dict[str, int], more: bool = False) -> "CategoryCells":
        """Of reference rows by value; `more` if there are values that `counts` leaves out."""
        most = CATEGORY_CELLS - FIRST_VALUE
        ordered = sorted(counts, key=lambda value: (-counts[value], value))
        rest = ordered[most:]
        more = more or len(rest) > MOST_KNOWN
        return cls(tuple(ordered[:most]), frozenset(rest[:MOST_KNOWN]), more)

    def encode(self, values: Sequence[Any] | npt.NDArray[Any]) -> Codes:
        """Of texts, bytes, whole numbers or booleans, compared as texts; None, NaN and empty texts are missing."""
        places: dict[str, int] = self._places  # type: ignore[attr-defined]
        unknown: int = self._unknown  # type: ignore[attr-defined]
        listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
        seen: dict[Any, int] = {}
        codes = bytearray(len(listed))
        for row, value in enumerate(listed):
            code = seen.get(value, -1)
            if code < 0:
                text = to_text(value)
                code = MISSING if text is None else places.get(text, unknown)
                if len(seen) < MOST_KNOWN:
                    seen[value] = code
            codes[row] = code
        return np.frombuffer(bytes(codes), np.uint8)

    def describe(self, cell: int) -> str:
        """The cell in words: `missing`, `new`, `other`, or its value."""
        if cell >= FIRST_VALUE:
            return self.values[cell - FIRST_VALUE] if cell - FIRST_VALUE < len(self.values) else ""
        return ("missing", "new", "other")[cell]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "category",
            "values": list(self.values),
            "known": sorted(self.known),
            "open_ended": self.open_ended,
        }


Cells = NumberCells | CategoryCells


def to_text(value: Any) -> str | None:
    """A category as text; None if it is missing."""
    if value is None or value != value or value == "" or value == b"":
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def from_json(held: dict[str, Any]) -> Cells:
    if held["kind"] == "number":
        low, high = (np.inf, -np.inf) if held["low"] is None else (float(held["low"]), float(held["high"]))
        return NumberCells(low, high, tuple(map(float, held["edges"])))
    return CategoryCells(tuple(held["values"]), frozenset(held["known"]), bool(held["open_ended"]))


def count(codes: Codes, weights: npt.NDArray[np.float64] | None = None) -> npt.NDArray[Any]:
    """Rows a cell: (columns, 32), of codes (rows, columns). Of weighted rows, their weights."""
    columns = codes.shape[1]
    flat = (codes + np.arange(columns, dtype=np.int64) * CATEGORY_CELLS).ravel()
    held = None if weights is None else np.repeat(weights, columns)
    found = np.bincount(flat, held, minlength=columns * CATEGORY_CELLS)
    return found.reshape(columns, CATEGORY_CELLS)
