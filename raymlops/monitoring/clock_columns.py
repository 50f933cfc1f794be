"""Columns that only tell when a row was: the month, the day, a number that rises with each row. They differ later on
without anything being wrong. What comes again soon, the hour and the day of the week, is not among them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.datetime64]
Ints = npt.NDArray[np.int64]

_AGREES = 0.75
"""Share of rows: a column may be in local time, of which some hours are of another day than in UTC."""
_RISES = 0.995
"""Rank correlation with the time, of a column with a value of its own in nearly each row."""


def _since(times: Times, unit: str) -> Ints:
    return times.astype(f"datetime64[{unit}]").astype(np.int64)


def _month(times: Times) -> Ints:
    return _since(times, "M") % 12 + 1


def _day_of_year(times: Times) -> Ints:
    return _since(times, "D") - times.astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64) + 1


PARTS: Mapping[str, Callable[[Times], Ints]] = {
    "year": lambda times: _since(times, "Y") + 1970,
    "quarter": lambda times: (_month(times) + 2) // 3,
    "month": _month,
    "day of the month": lambda times: (
        _since(times, "D") - times.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + 1
    ),
    "day of the year": _day_of_year,
    "week of the year": lambda times: (_day_of_year(times) + 6) // 7,
}


def name_clock(name: str, values: npt.NDArray[Any], times: Times) -> str:
    """What of the time (rows,) a column of numbers (rows,) tells; empty for other columns. One with a single value, as
    of rows of one month, does so if its name says it, too."""
    numbers = np.asarray(values, np.float64)
    held = np.isfinite(numbers)
    if held.sum() < 10:
        return ""
    numbers, times = numbers[held], times[held]
    is_constant = len(np.unique(numbers)) < 2
    for part, find in PARTS.items():
        wanted = find(times)
        # counted from 0 or from 1
        agrees = any((numbers == wanted + shift).mean() >= _AGREES for shift in (0, -1))
        if agrees and (not is_constant or part.split()[0] in name.lower()):
            return part
    if len(np.unique(numbers)) > 0.9 * len(numbers) and _correlate_ranks(numbers, times) > _RISES:
        return "order"
    return ""


def _correlate_ranks(numbers: npt.NDArray[np.float64], times: Times) -> float:
    ranks = [np.argsort(np.argsort(one, kind="stable"), kind="stable") for one in (numbers, times)]
    return float(abs(np.corrcoef(ranks[0], ranks[1])[0, 1]))
