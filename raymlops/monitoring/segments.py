"""Segments: parts of the rows that are watched by themselves, as cells of columns that a row must be in. Reads no
table: a row is its cells."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raymlops.monitoring.cells import MISSING, Codes
from raymlops.monitoring.reference import Column, Reference

LEAST_SHARE = 0.02
"""Of the reference's rows: smaller segments say too little for what they cost."""
MOST = 64
"""Segments of a version, those with the most rows."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """Rows that are in a cell of one column, or of each of two."""

    name: str
    """`origin=JFK`, or `origin=JFK, carrier=DL`: as ticks and incidents name it."""
    cells: tuple[tuple[int, int], ...]
    """The place of a column of the reference, and the cell."""

    def find_rows(self, codes: Codes) -> npt.NDArray[np.bool_]:
        """Which rows (rows,) of codes (rows, columns) are in it."""
        held = np.ones(len(codes), bool)
        for place, cell in self.cells:
            held &= codes[:, place] == cell
        return held


def find_segments(
    reference: Reference, columns: Sequence[str] | None = None, share: float = LEAST_SHARE
) -> tuple[Segment, ...]:
    """The values of these columns, or of the columns of the reference's segments, and pairs of values of two of them,
    each with at least `share` of the rows; the largest first. Of numbers the bins are the values."""
    wanted = dict.fromkeys(column for column, _ in reference.segments) if columns is None else columns
    values = set(reference.segments) if columns is None else set()
    least = share * len(reference.codes)
    by_column: list[list[Segment]] = []
    for place, column in enumerate(reference.columns):
        if column.role == "input" and column.name in wanted and len(reference.codes):
            counts = np.bincount(reference.codes[:, place])
            cells = [cell for cell in np.flatnonzero(counts >= max(least, 1)).tolist() if cell != MISSING]
            found = [Segment(_name(column, cell), ((place, cell),)) for cell in cells]
            kept = [one for one in found if not values or tuple(one.name.split("=", 1)) in values]
            by_column.append(kept)
    singles = [one for listed in by_column for one in listed]
    pairs = [
        Segment(f"{one.name}, {other.name}", (*one.cells, *other.cells))
        for first, second in itertools.combinations(by_column, 2)
        for one, other in itertools.product(first, second)
    ]
    sizes = {one: int(one.find_rows(reference.codes).sum()) for one in (*singles, *pairs)}
    large = [one for one in sizes if sizes[one] >= max(least, 1)]
    return tuple(sorted(large, key=lambda one: (-sizes[one], one.name))[:MOST])


def _name(column: Column, cell: int) -> str:
    return f"{column.name}={column.cells.describe(cell)}"
