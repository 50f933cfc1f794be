"""Residual columns: of a number that others explain, its distance from what they predict. A shift that is small beside
the column's own spread is large beside its residual's. All by one product with a precision matrix.

Source: regression of each variable on all others is read off the inverse covariance (Whittaker, Graphical Models, 1990,
section 5.8).
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

EXPLAINED = 0.3
"""Share of a column's variance that others must explain."""
MOST_COLUMNS = 200
"""Numbers among which residuals are sought: the product is quadratic in them."""
_CLIP = 6.0
"""Standard deviations beyond which a value counts as that far: one broken column must not hide in all residuals."""
_CENTRED = 8
"""Steps in which means are found: each leaves of the distance the share of the rows that are cut."""
_RIDGE = 1e-3
_GRID = 2.0**20
"""Residuals are whole multiples of a part of it: a product differs in its last bits with the number of rows, and rows
of few values lie exactly on the edges of cells."""


@dataclasses.dataclass(frozen=True)
class Residuals:
    """`columns` are the numbers used, `of` the places among them of those that have a residual column. `weights`
    (numbers, residuals) makes residuals from standardised values."""

    columns: tuple[str, ...]
    of: tuple[int, ...]
    means: Floats
    scales: Floats
    weights: Floats
    spreads: Floats
    """Standard deviations of the residuals of reference rows, (residuals,)."""

    @classmethod
    def fit(cls, columns: tuple[str, ...], values: Floats) -> "Residuals":
        """Of reference rows (rows, columns), NaN missing. Columns beyond the first 200 are left out."""
        columns = columns[:MOST_COLUMNS]
        values = np.asarray(values, np.float64)[:, : len(columns)]
        with np.errstate(all="ignore"):
            means = np.array([_mean(values[:, place]) for place in range(len(columns))])
            scales = np.array([_spread(values[:, place], means[place]) for place in range(len(columns))])
        held = cls(columns, (), means, scales, np.empty((len(columns), 0)), np.empty(0))._centre(values)
        if len(values) < 10 * max(len(columns), 1) or len(columns) < 2:
            return held
        standard = held.standardise(values)
        covariance = np.atleast_2d(np.cov(standard, rowvar=False)) + _RIDGE * np.eye(len(columns))
        precision = np.linalg.inv(covariance)
        diagonal = np.diag(precision)
        variances = np.diag(covariance)
        explained = 1.0 - 1.0 / np.maximum(diagonal * variances, 1.0)
        chosen = tuple(int(place) for place in np.flatnonzero((explained > EXPLAINED) & (scales > 0)))
        weights = precision[:, chosen] / diagonal[list(chosen)]
        spreads = np.maximum((standard @ weights).std(axis=0), 1e-9)
        return dataclasses.replace(held, of=chosen, weights=weights, spreads=spreads)

    def _centre(self, values: Floats) -> "Residuals":
        """With means at which values, cut as they are, have the mean 0: then residuals have it, too, and a mean that is
        not 0 tells a shift. Residuals of columns that others explain wholly are so small that the median's distance
        from the mean would be many of their standard deviations."""
        held = self
        for _ in range(_CENTRED):
            with np.errstate(all="ignore"):
                middle = held.standardise(values).sum(axis=0) / np.maximum(np.isfinite(values).sum(axis=0), 1)
            held = dataclasses.replace(held, means=held.means + middle * self.scales)
        return held

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns[place] for place in self.of)

    def standardise(self, values: Floats) -> Floats:
        scaled = (values - self.means) / np.where(self.scales > 0, self.scales, 1.0)
        return np.nan_to_num(np.clip(scaled, -_CLIP, _CLIP), nan=0.0)

    def find(self, values: Floats) -> Floats:
        """Residuals (rows, residuals) in standard deviations of their columns; NaN where the value itself is missing.
        Other values that are missing count as the mean."""
        values = np.asarray(values, np.float64)
        found = round_residuals(self.standardise(values) @ self.weights)
        found[np.isnan(values[:, list(self.of)])] = np.nan
        return found


def round_residuals(values: Floats) -> Floats:
    """To the values that residuals may have."""
    rounded: Floats = np.rint(values * _GRID) / _GRID
    return rounded


def _mean(values: Floats) -> float:
    kept = values[np.isfinite(values)]
    return float(np.median(kept)) if len(kept) else 0.0


def _spread(values: Floats, middle: float) -> float:
    kept = values[np.isfinite(values)]
    if not len(kept):
        return 0.0
    low, high = np.quantile(kept, (0.02, 0.98))
    inner = kept[(kept >= low) & (kept <= high)]
    # without the outermost values: one outlier would make all others look alike
    return float(inner.std()) or float(kept.std())
