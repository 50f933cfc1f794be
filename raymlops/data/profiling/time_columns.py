"""Columns of times that are written as texts or numbers: their format, and their range and order in a sample."""

import dataclasses
import re
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.conversions.conversion import Conversion
from raymlops.conversions.time_formats import count_formats
from raymlops.table_profile import ColumnProfile, NumberProfile, TableProfile, TextProfile

_TIME_NAME = re.compile(
    r"time|date|epoch|(^|_)(ts|at|on|when|day|created|updated|seen|start|end)($|_)", re.IGNORECASE
)
_FEWEST = 20
_DAY_MS = 86_400_000
USUAL_PARTS = ("hour", "weekday")
"""What a column under features.timestamps has."""


def find_times(table: TableProfile, sample: pa.Table) -> TableProfile:
    """The profile with the formats, ranges and order of such columns; those of numbers are found by their names."""
    columns = tuple(_find(column, sample[column.name]) for column in table.columns)
    return dataclasses.replace(table, columns=columns)


def _find(column: ColumnProfile, values: pa.ChunkedArray) -> ColumnProfile:
    formats = column.text.formats if column.text is not None else ()
    if column.kind == "integer" and column.distinct >= _FEWEST and _TIME_NAME.search(column.name):
        formats = tuple(count_formats(values).find())
    if not formats:
        return column
    found = [(form, to_instants(values, form)) for form in formats]
    # Of several formats, that in which time runs with the rows is the likelier.
    found.sort(key=lambda one: not _order(one[1]))
    form, times = found[0]
    known = times[~np.isnan(times)]
    if not len(known):
        return column
    text = column.text or TextProfile(0, 0, 0.0, 0.0)
    ordered = (form, *(other for other, _ in found[1:]))
    quantiles = tuple(np.quantile(known, np.linspace(0, 1, 65)).tolist())
    numbers = NumberProfile(
        float(known.mean()), float(known.std()), quantiles[0], quantiles[-1], quantiles, True
    )
    return dataclasses.replace(
        column,
        numbers=numbers,
        order=_order(times),
        counts_rows=False,
        text=dataclasses.replace(text, formats=ordered, written=""),
    )


def choose_parts(times: NumberProfile | None) -> tuple[str, ...]:
    """The parts of a column of times that can tell rows apart: no hour of dates, and no days and months in less than a
    year and a half, of which a test would have others."""
    if times is None:
        return USUAL_PARTS
    days = (times.max - times.min) / _DAY_MS
    is_timed = bool(times.min % _DAY_MS or times.max % _DAY_MS)
    return (
        *("hour",) * is_timed,
        "weekday",
        *("day", "month", "dayofyear") * (days >= 550),
    )


def to_instants(values: pa.ChunkedArray, form: str) -> npt.NDArray[np.float64]:
    """Milliseconds since 1970, NaN where missing."""
    times = Conversion("timestamp", format=form).apply(values).values
    found = times.to_numpy().astype("datetime64[ms]")
    return np.where(np.isnat(found), np.nan, found.astype(np.int64).astype(np.float64))


def _order(times: npt.NDArray[np.float64]) -> Literal["", "rising", "falling"]:
    gaps = np.diff(times[~np.isnan(times)])
    if not len(gaps) or not gaps.any():
        return ""
    return "rising" if (gaps >= 0).all() else "falling" if (gaps <= 0).all() else ""
