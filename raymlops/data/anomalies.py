"""What is unusual about the columns of a training set, from the statistics of its splits: constant and mostly missing
columns, values that only validation has, and differences between training and validation. Reads no rows."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Profile = Mapping[str, Any]
"""Statistics of one column as JSON, as of `Statistics.to_json`."""

_MISSING = 0.5
"""Share of missing values from which a column is told."""
_MISSING_APART = 0.02
_UNKNOWN = 0.01
"""Share of validation rows with values that training rows lack."""
_NUMBERS_APART = 0.1
"""Largest difference of two distribution functions (Kolmogorov-Smirnov)."""
_CATEGORIES_APART = 0.05
"""Largest difference of a value's share (L-infinity, as TFDV has it)."""
_SURE = 4.0
"""Standard errors beyond which a difference is not chance: many columns are compared."""
_KS_SURE = 1.95
"""Of the Kolmogorov-Smirnov distance: a chance of one in a thousand."""


@dataclasses.dataclass(frozen=True)
class Anomaly:
    """Something unusual about a column."""

    column: str
    kind: str
    """`constant`, `missing`, `new values` or `skew`."""
    text: str

    def __str__(self) -> str:
        return f"{self.column}: {self.text}"


def find_anomalies(train: Mapping[str, Profile], validation: Mapping[str, Profile]) -> tuple[Anomaly, ...]:
    """Of all columns, by their statistics in both splits; the target has them under `target:category` or
    `target:number`."""
    found: list[Anomaly] = []
    for name, known in train.items():
        shown = "the target" if name.startswith("target:") else name
        found += [dataclasses.replace(one, column=shown) for one in _find_alone(known)]
        other = validation.get(name)
        if other is not None and other["rows"] and known["rows"]:
            found += [dataclasses.replace(one, column=shown) for one in _compare(known, other)]
    return tuple(dict.fromkeys(found))


def _find_alone(known: Profile) -> Iterator[Anomaly]:
    rows, missing = known["rows"], known["missing"]
    if not rows:
        return
    if known["kind"] == "number" and rows > missing and known["min"] == known["max"] and not missing:
        yield Anomaly("", "constant", f"{known['min']:g} in all {rows:,} training rows")
    if known["kind"] == "category" and known["distinct"] == 1 and not missing:
        yield Anomaly("", "constant", f"{known['counts'][0][0]!r} in all {rows:,} training rows")
    if missing / rows >= _MISSING:
        yield Anomaly("", "missing", f"missing in {missing / rows:.0%} of {rows:,} training rows")


def _compare(known: Profile, other: Profile) -> Iterator[Anomaly]:
    first, second = (one["missing"] / one["rows"] for one in (known, other))
    if abs(first - second) > _bound(_MISSING_APART, first, second, known["rows"], other["rows"]):
        yield Anomaly(
            "", "skew", f"missing in {first:.1%} of the training rows, and in {second:.1%} of validation"
        )
    compare = {"number": _compare_numbers, "category": _compare_categories}.get(known["kind"])
    if compare is not None and known["kind"] == other["kind"]:
        yield from compare(known, other)


def _bound(least: float, first: float, second: float, rows: int, others: int) -> float:
    """The difference of two shares beyond which it is told."""
    share = (first * rows + second * others) / (rows + others)
    return max(least, _SURE * math.sqrt(share * (1 - share) * (1 / rows + 1 / others)))


def _compare_numbers(known: Profile, other: Profile) -> Iterator[Anomaly]:
    first, second = (np.asarray(one["quantiles"], dtype=np.float64) for one in (known, other))
    if not len(first) or not len(second):
        return
    places = np.union1d(first, second)
    gaps = np.abs(
        np.searchsorted(first, places, "right") / len(first)
        - np.searchsorted(second, places, "right") / len(second)
    )
    counts = [one["rows"] - one["missing"] for one in (known, other)]
    sure = _KS_SURE * math.sqrt(sum(counts) / (counts[0] * counts[1])) + 2 / len(first)
    if gaps.max() > max(_NUMBERS_APART, sure):
        at = float(places[int(gaps.argmax())])
        below = [float((np.searchsorted(one, at, "right")) / len(one)) for one in (first, second)]
        yield Anomaly(
            "",
            "skew",
            f"{below[0]:.0%} of the training rows are at most {at:.4g}, and {below[1]:.0%} of validation",
        )


def _compare_categories(known: Profile, other: Profile) -> Iterator[Anomaly]:
    shares, others = (
        {value: count / one["rows"] for value, count in one["counts"]} for one in (known, other)
    )
    complete = len(known["counts"]) == known["distinct"]
    new = [value for value in others if value not in shares] if complete else []
    share = sum(others[value] for value in new)
    if share > _UNKNOWN:
        named = ", ".join(repr(value) for value in new[:3]) + (", ..." if len(new) > 3 else "")
        yield Anomaly(
            "", "new values", f"{share:.1%} of the validation rows have values that training lacks: {named}"
        )
    apart = {value: abs(shares.get(value, 0.0) - others.get(value, 0.0)) for value in {**shares, **others}}
    worst = max(apart, key=lambda value: apart[value], default=None)
    if worst is None or worst in new:
        return
    first, second = shares.get(worst, 0.0), others.get(worst, 0.0)
    if apart[worst] > _bound(_CATEGORIES_APART, first, second, known["rows"], other["rows"]):
        yield Anomaly(
            "", "skew", f"{worst!r} in {first:.1%} of the training rows, and in {second:.1%} of validation"
        )
