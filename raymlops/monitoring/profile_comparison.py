"""Two profiles of training rows compared, column by column: which differ beyond chance, and in what. A profile has the
quantiles of numbers and the counts of categories. Reads no files."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

_LEVEL = 0.01
"""The share of comparisons of data without a change in which any column may be found to differ."""
_LARGEST = 3
"""Values of a category that are named."""

Profile = Mapping[str, Any]
"""Of a column, as JSON: `kind`, `rows`, `missing`, and what the kind has (raymlops.data.statistics)."""


@dataclasses.dataclass(frozen=True)
class ColumnDifference:
    """A column of both profiles, in words: `first` and `second` of one, empty where it has none."""

    column: str
    first: str
    second: str


def compare_profiles(first: Mapping[str, Profile], second: Mapping[str, Profile]) -> list[ColumnDifference]:
    """The columns that differ beyond chance, and those that only one has."""
    names = list(dict.fromkeys([*first, *second]))
    tests = 2 * max(len(names), 1)
    found = []
    for name in names:
        one, other = first.get(name), second.get(name)
        if one is None or other is None or one.get("kind") != other.get("kind"):
            words = [_describe(held) if held else "" for held in (one, other)]
            found.append(ColumnDifference(name, *words))
            continue
        if _differ(one, other, _LEVEL / tests):
            named = _find_moved(one, other)
            found.append(ColumnDifference(name, _describe(one, named), _describe(other, named)))
    return found


def _differ(one: Profile, other: Profile, level: float) -> bool:
    rows = int(one["rows"]), int(other["rows"])
    if not all(rows):
        return False
    shares = [held["missing"] / held["rows"] for held in (one, other)]
    if _differs_by_chance(shares[0], shares[1], *rows, level):
        return True
    present = [held["rows"] - held["missing"] for held in (one, other)]
    if not all(present):
        return False
    if one["kind"] == "number":
        limit = math.sqrt(-math.log(level / 2) / 2 * (1 / present[0] + 1 / present[1]))
        return _find_distance(one["quantiles"], other["quantiles"]) > limit
    if one["kind"] == "category":
        values = _shares(one), _shares(other)
        every = list(dict.fromkeys([*values[0], *values[1]]))
        return any(
            _differs_by_chance(
                values[0].get(value, 0.0),
                values[1].get(value, 0.0),
                present[0],
                present[1],
                level / len(every),
            )
            for value in every
        )
    return False


def _differs_by_chance(one: float, other: float, rows: int, others: int, level: float) -> bool:
    """Whether two shares differ beyond chance, two-sided."""
    both = (one * rows + other * others) / (rows + others)
    error = math.sqrt(max(both * (1 - both), 1e-12) * (1 / rows + 1 / others))
    # of a value that few rows have, one more row is no finding
    return abs(one - other) - 1 / min(rows, others) > -float(special.ndtri(level / 2)) * error


def _find_distance(one: list[float], other: list[float]) -> float:
    """The largest distance of the distribution functions that the quantiles leave no doubt of: of the share of rows up
    to a value they tell between which two of their steps it lies."""
    if not one or not other:
        return 0.0
    points = np.unique([*one, *other])
    bounds = []
    for quantiles in (np.array(one), np.array(other)):
        last = len(quantiles) - 1
        steps = np.searchsorted(quantiles, points, side="right")
        bounds.append((np.clip((steps - 1) / last, 0, 1), np.clip(steps / last, 0, 1)))
    gaps = np.maximum(bounds[0][0] - bounds[1][1], bounds[1][0] - bounds[0][1])
    return float(gaps.max(initial=0.0))


def _shares(held: Profile) -> dict[str, float]:
    present = max(held["rows"] - held["missing"], 1)
    return {str(value): count / present for value, count in held["counts"]}


def _find_moved(one: Profile, other: Profile) -> list[str]:
    """The values of a category that differ most."""
    if one["kind"] != "category":
        return []
    values = _shares(one), _shares(other)
    every = {
        value: abs(values[0].get(value, 0) - values[1].get(value, 0)) for value in {**values[0], **values[1]}
    }
    return sorted(every, key=lambda value: (-every[value], value))[:_LARGEST]


def _describe(held: Profile, named: list[str] | None = None) -> str:
    words = []
    if held["kind"] == "number" and held["quantiles"]:
        quantiles = held["quantiles"]
        low, middle, high = (quantiles[round(part * (len(quantiles) - 1))] for part in (0.1, 0.5, 0.9))
        words.append(f"median {middle:.4g} ({low:.4g} to {high:.4g} in the middle 80%)")
    elif held["kind"] == "category":
        shares = _shares(held)
        listed = named or [str(value) for value, _ in held["counts"][:_LARGEST]]
        words += [f"{value} {shares.get(value, 0.0):.3g}" for value in listed]
    else:
        words.append(str(held["kind"]))
    if held["rows"]:
        words.append(f"{held['missing'] / held['rows']:.2%} missing")
    return ", ".join(words)
