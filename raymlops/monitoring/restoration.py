"""A column of rows given back the distribution that it had in the reference: each row at its rank, so that what hangs
together stays together as far as it can. Scored again, the rows say how much of a change of the score the column
explains. Runs no model."""

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.monitoring.cells import FIRST_VALUE, MISSING, NEW, OTHER, CategoryCells, NumberCells, to_text

Floats = npt.NDArray[np.floating[Any]]

LEAST_ERRORS = 5.0
"""Standard errors by which a mean score must have moved before shares of that are told: of less they are noise."""
_UNCLEAR = 0.2


@dataclasses.dataclass(frozen=True)
class ScoreChange:
    """How far the mean of a score moved, and the share of it that each column explains, the largest first. Shares need
    not add to 1: columns act together, and some against others."""

    column: str
    usual: float
    now: float
    shares: tuple[tuple[str, float], ...] = ()

    def describe(self) -> str:
        """`probability: the mean is 0.33, usually 0.24; temp explains 97%, humid 3%`."""
        told = f"{self.column}: the mean is {self.now:.3g}, usually {self.usual:.3g}"
        large = [(name, share) for name, share in self.shares if share >= _UNCLEAR / 4][:3]
        if not large or large[0][1] < _UNCLEAR:
            return f"{told}; no one column explains it"
        return f"{told}; " + ", ".join(
            f"{name} {'explains ' if not place else ''}{share:.0%}"
            for place, (name, share) in enumerate(large)
        )

    def to_json(self) -> dict[str, Any]:
        shares = [{"column": name, "share": share} for name, share in self.shares]
        return {"column": self.column, "usual": self.usual, "now": self.now, "shares": shares}


def has_moved(values: Floats, usual: tuple[float, float], reference_rows: int) -> bool:
    """Whether the mean of a score lies more than 5 standard errors from the reference's. `usual` is its mean and
    standard deviation."""
    held = values[np.isfinite(values)]
    if len(held) < 2 or not reference_rows:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        error = math.sqrt(float(held.var()) / len(held) + usual[1] ** 2 / reference_rows)
        return abs(float(held.mean()) - usual[0]) > LEAST_ERRORS * error


def restore_numbers(
    values: npt.NDArray[Any], cells: NumberCells, usual: Floats, random: np.random.Generator
) -> Floats:
    """Values (rows,) with the reference's distribution, whose shares of rows by cell are `usual`; NaN is missing. Ties
    are broken at random: a sensor that froze has one value for all rows."""
    numbers = np.asarray(values, np.float64)
    rows = len(numbers)
    missing = np.isnan(numbers)
    wanted = round(float(usual[MISSING]) * rows)
    stays = _choose(missing, wanted, random)
    # rows that were not missing in the reference get any rank
    keys = np.where(missing, random.random(rows), 0.0)
    present = np.flatnonzero(~missing)
    order = np.lexsort((random.random(len(present)), numbers[present]))
    keys[present[order]] = (np.arange(len(present)) + 0.5) / max(len(present), 1)
    held = np.flatnonzero(~stays)
    ranks = np.empty(len(held))
    ranks[np.argsort(keys[held], kind="stable")] = (np.arange(len(held)) + 0.5) / max(len(held), 1)
    found = np.full(rows, np.nan)
    found[held] = _find_quantiles(cells, usual, ranks)
    return found


def _choose(marked: npt.NDArray[np.bool_], wanted: int, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """So many rows, of those that are marked as far as they suffice."""
    order = np.lexsort((random.random(len(marked)), ~marked))
    found = np.zeros(len(marked), bool)
    found[order[:wanted]] = True
    return found


def _find_quantiles(cells: NumberCells, usual: Floats, ranks: Floats) -> Floats:
    """Uniform within a bin; in the first and the last, which end where single rows are, ever rarer away from the bin
    beside it, so as to begin as dense as that."""
    shares = usual[2 : 3 + len(cells.edges)]
    if not shares.sum():
        return np.full(len(ranks), np.nan)
    bounds = np.array([cells.low, *cells.edges, cells.high])
    ends = np.cumsum(shares) / shares.sum()
    bins = np.minimum(np.searchsorted(ends, ranks, side="right"), len(shares) - 1)
    starts = np.concatenate([[0.0], ends[:-1]])
    inside = (ranks - starts[bins]) / np.maximum(ends[bins] - starts[bins], 1e-12)
    widths = np.diff(bounds)
    last = len(shares) - 1
    if last >= 2:
        ends_of = {0: (1, inside[bins == 0], True), last: (last - 1, inside[bins == last], False)}
        for one, (beside, part, is_mirrored) in ends_of.items():
            density = shares[beside] / max(widths[beside], 1e-300) / max(shares[one], 1e-12)
            bent = _bend(1.0 - part if is_mirrored else part, density * widths[one])
            inside[bins == one] = 1.0 - bent if is_mirrored else bent
    found: Floats = bounds[bins] + inside * widths[bins]
    return found


def _bend(part: Floats, density: float) -> Floats:
    """Quantiles from 0 to 1 of an exponential distribution that is cut at 1, with this density at 0; uniform if that is
    no more than 1."""
    if density <= 1.0:
        return part
    rate = density
    for _ in range(50):
        rate = density * -math.expm1(-rate)
    found: Floats = -np.log1p(part * math.expm1(-rate)) / rate
    return found


def restore_categories(
    values: npt.NDArray[Any], cells: CategoryCells, usual: Floats, random: np.random.Generator
) -> npt.NDArray[np.object_]:
    """The same of categories, as texts or None: as many rows as can keep their value."""
    codes = cells.encode(values)
    rows = len(codes)
    wanted = np.floor(usual[: cells.cells] * rows + random.random()).astype(np.int64)
    wanted[NEW] = 0
    wanted[int(np.argmax(usual))] += rows - wanted.sum()
    found = np.array([to_text(value) for value in values.tolist()], object)
    freed: list[int] = []
    free: list[int] = []
    for cell in range(cells.cells):
        held = np.flatnonzero(codes == cell)
        if len(held) > wanted[cell]:
            freed += random.permutation(held)[: len(held) - max(wanted[cell], 0)].tolist()
        free += [cell] * max(int(wanted[cell]) - len(held), 0)
    others = sorted(cells.known) or list(cells.values[-1:])
    for row, cell in zip(freed, random.permutation(free).tolist(), strict=False):
        found[row] = _name_value(cells, int(cell), others, random)
    return found


def _name_value(
    cells: CategoryCells, cell: int, others: list[str], random: np.random.Generator
) -> str | None:
    if cell >= FIRST_VALUE:
        return cells.values[cell - FIRST_VALUE]
    if cell == OTHER and others:
        return others[int(random.integers(len(others)))]
    return None
