"""Rules by which others tell drift, as their documentation has them: Evidently's default for references of more than
1,000 rows, NannyML's univariate default, and Kolmogorov-Smirnov and chi-square tests. benchmarks/peers has scripts that
run the packages themselves. Measures nothing.

Each gives one number for a window, the largest over its columns, so that a threshold can be set to any number of false
alarms.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special
from scipy.spatial import distance

from benchmarks.monitored_tables import SCORE, Monitored

Floats = npt.NDArray[np.float64]

EVIDENTLY, HALF, NANNYML, TESTS = "Evidently", "Evidently, 50% of columns", "NannyML", "KS, chi-square"
FIXED = {EVIDENTLY: 0.1, HALF: 0.1}
"""Distances of more are drift."""
_FEW_VALUES = 5
"""Numbers with as many values or fewer are compared as categories by Evidently."""
_NANNYML_VALUES = 50
_LEAST_SPREAD = 1e-3
CHUNKS = 10
"""Of NannyML's reference, by default."""


@dataclasses.dataclass(frozen=True)
class _Number:
    ordered: Floats
    spread: float
    edges: Floats
    """Of NannyML's bins; empty if the values are compared as categories."""
    shares: Floats
    values: npt.NDArray[Any]

    @classmethod
    def of(cls, values: Floats) -> "_Number":
        held = np.sort(values[~np.isnan(values)])
        unique, counts = np.unique(held, return_counts=True)
        few = len(unique) <= _NANNYML_VALUES and len(unique) <= 0.1 * len(held)
        edges = np.empty(0) if few else np.histogram_bin_edges(held, bins="doane")
        shares = (counts if few else np.histogram(held, edges)[0]) / max(len(held), 1)
        return cls(held, max(float(held.std()), _LEAST_SPREAD), edges, shares, unique)

    def find(self, values: Floats) -> tuple[float, float, float]:
        """Distances of Evidently and NannyML, and -log10 of the chance by Kolmogorov and Smirnov."""
        held = np.sort(values[~np.isnan(values)])
        if not len(held):
            return np.nan, np.nan, 0.0
        points = np.sort(np.concatenate([self.ordered, held]), kind="stable")
        gap = np.searchsorted(self.ordered, points, side="right") / len(self.ordered)
        gap -= np.searchsorted(held, points, side="right") / len(held)
        moved = float(np.abs(gap[:-1]) @ np.diff(points)) / self.spread
        if len(self.values) <= _FEW_VALUES and len(np.union1d(self.values, held)) <= _FEW_VALUES:
            moved = _find_distance(*_align(self.values, self.ordered, held))
        rows = len(self.ordered) * len(held) / (len(self.ordered) + len(held))
        chance = float(special.kolmogorov(np.sqrt(rows) * np.abs(gap).max()))
        return moved, self._find_binned(held), -np.log10(max(chance, 1e-300))

    def _find_binned(self, held: Floats) -> float:
        if len(self.edges):
            counts = np.histogram(held, self.edges)[0]
        else:
            places = np.searchsorted(self.values, held).clip(max=len(self.values) - 1)
            counts = np.bincount(places[self.values[places] == held], minlength=len(self.values))
        return _with_others(self.shares, counts / len(held))


@dataclasses.dataclass(frozen=True)
class _Category:
    counts: pd.Series

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> "_Category":
        return cls(pd.Series(values).dropna().value_counts())

    def find(self, values: npt.NDArray[Any]) -> tuple[float, float, float]:
        held = pd.Series(values).dropna().value_counts()
        if not held.sum():
            return np.nan, np.nan, 0.0
        every = self.counts.index.union(held.index, sort=False)
        both = np.stack([self.counts.reindex(every, fill_value=0), held.reindex(every, fill_value=0)])
        both = both.astype(np.float64)
        shares = both / both.sum(axis=1, keepdims=True)
        known = both[1][: len(self.counts)] / both[1].sum()
        expected = both.sum(axis=0) * (both.sum(axis=1)[:, None] / both.sum())
        statistic = float(((both - expected) ** 2 / expected).sum())
        chance = float(special.chdtrc(max(len(every) - 1, 1), statistic))
        return (
            _find_distance(shares[0], shares[1]),
            _with_others(self.counts.to_numpy() / self.counts.sum(), known),
            -np.log10(max(chance, 1e-300)),
        )


def _align(values: Floats, reference: Floats, held: Floats) -> tuple[Floats, Floats]:
    every = np.union1d(values, held)
    counted = [np.bincount(np.searchsorted(every, one), minlength=len(every)) for one in (reference, held)]
    return counted[0] / len(reference), counted[1] / len(held)


def _find_distance(one: Floats, other: Floats, base: float | None = None) -> float:
    return float(np.nan_to_num(distance.jensenshannon(one, other, base)))


def _with_others(reference: Floats, held: Floats) -> float:
    """What is in no bin of the reference is in one of its own."""
    rest = max(1.0 - float(held.sum()), 0.0)
    return _find_distance(np.append(reference, 0.0), np.append(held, rest), base=2)


@dataclasses.dataclass(frozen=True)
class Rivals:
    columns: dict[str, "_Number | _Category"]

    @classmethod
    def of(cls, table: Monitored, reference: pd.DataFrame) -> "Rivals":
        numbers = {name: _Number.of(reference[name].to_numpy(np.float64)) for name in (*table.numbers, SCORE)}
        return cls(
            {**numbers, **{name: _Category.of(reference[name].to_numpy(object)) for name in table.categories}}
        )

    def measure(self, window: pd.DataFrame) -> Floats:
        """(columns, 3): distances of Evidently and NannyML, and -log10 of the chance. NaN without a value."""
        return np.array([one.find(window[name].to_numpy()) for name, one in self.columns.items()])


@dataclasses.dataclass(frozen=True)
class Chunks:
    """What NannyML's distances are in chunks of the reference: mean and standard deviation by column."""

    mean: Floats
    spread: Floats

    @classmethod
    def of(cls, rivals: Rivals, reference: pd.DataFrame, rows: int) -> "Chunks":
        """Chunks of so many rows, of which the reference has two at least."""
        starts = range(0, len(reference) - rows + 1, rows)
        found = np.array([rivals.measure(reference.iloc[one : one + rows])[:, 1] for one in starts])
        return cls(np.nanmean(found, axis=0), np.nanstd(found, axis=0))

    def find(self, distances: Floats) -> float:
        """The most standard deviations above the mean; 3 are an alarm. A column without a value has no distance."""
        beyond = (distances - self.mean) / np.maximum(self.spread, 1e-12)
        return float(np.nanmax(beyond))


def summarise(measured: Floats, chunks: Chunks) -> dict[str, float]:
    """The statistic of each rule. A column without any value fails both packages: it counts as the largest distance."""
    distances = np.nan_to_num(measured[:, 0], nan=np.inf)
    lost = bool(np.isnan(measured[:, 1]).any())
    return {
        EVIDENTLY: float(distances.max()),
        HALF: float(np.sort(distances)[::-1][(len(distances) + 1) // 2 - 1]),
        NANNYML: np.inf if lost else chunks.find(measured[:, 1]),
        TESTS: np.inf if lost else float(measured[:, 2].max()),
    }
