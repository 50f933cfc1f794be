"""The shares of rows of a watched column, now against usual, as charts with the band of chance."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from scipy import special

from raymlops.evaluation import share_charts
from raymlops.evaluation.share_charts import Cell
from raymlops.monitoring.cells import ABOVE, BELOW, MISSING, NumberCells
from raymlops.monitoring.comparison import ColumnShares
from raymlops.monitoring.reference import SAMPLE_ROWS

_LEVEL = 0.01
"""The share of columns without a change of which any cell lies outside the band."""
_APART = {MISSING: "missing", BELOW: "below", ABOVE: "above"}


def draw_column(one: ColumnShares, rows: int, reference_rows: int, *, beyond: bool) -> Markup:
    """Bins of numbers, or bars of categories; cells outside the band are marked if the column differs `beyond`
    chance."""
    cells = _list_cells(one, rows, min(reference_rows, SAMPLE_ROWS), beyond)
    label = f"{one.column.label}: shares of rows now and usually"
    if not isinstance(one.column.cells, NumberCells):
        return share_charts.draw_categories(cells, label)
    return share_charts.draw_bins(cells, _list_bounds(one.column.cells, one.column.role == "residual"), label)


def draw_small_column(one: ColumnShares) -> Markup:
    """Without axes, for a cell of a table."""
    used = _find_used(one)
    return share_charts.draw_small([one.usual[place] for place in used], [one.now[place] for place in used])


def _list_cells(one: ColumnShares, rows: int, reference_rows: int, beyond: bool) -> list[Cell]:
    used = _find_used(one)
    sizes = max(rows, 1), max(reference_rows, 1)
    bound = float(special.ndtri(1.0 - _LEVEL / 2.0 / max(len(used), 1)))
    numbers = isinstance(one.column.cells, NumberCells)
    found = []
    for place in used:
        usual, now = float(one.usual[place]), float(one.now[place])
        # half a row more, so that a cell that the reference does not have is not taken as certain to stay empty
        share = (usual * sizes[1] + 0.5) / (sizes[1] + 1.0)
        half = bound * float(np.sqrt(share * (1.0 - share) * (1.0 / sizes[0] + 1.0 / sizes[1])))
        low, high = max(usual - half, 0.0), min(usual + half + 1.0 / sizes[0], 1.0)
        apart = numbers and place in _APART
        name = _APART[place] if apart else one.column.cells.describe(place)
        found.append(Cell(name, usual, now, low, high, apart, beyond and not low <= now <= high))
    return found


def _find_used(one: ColumnShares) -> list[int]:
    """All bins, and of other cells those that have rows, missing ones first, those above the range last."""
    cells = one.column.cells
    bins: Sequence[int] = ()
    if isinstance(cells, NumberCells) and cells.low <= cells.high:
        bins = range(2, 3 + len(cells.edges))
    return [
        place
        for place in range(len(one.usual))
        if place in bins or one.usual[place] > 0 or one.now[place] > 0
    ]


def _list_bounds(cells: NumberCells, wide: bool) -> list[str]:
    if cells.low > cells.high:
        return []
    # the range has a margin; of a residual it says nothing to a person
    ends = ("", "") if wide else (f"{cells.low:.3g}", f"{cells.high:.3g}")
    return [ends[0], *(f"{edge:.3g}" for edge in cells.edges), ends[1]]
