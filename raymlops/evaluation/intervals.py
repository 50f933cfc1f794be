"""Bootstrap intervals from sums: of one model, and paired, of two models on the same rows. Decides nothing.

The groups of a Partial are resampled (multinomial weights), which is close to the row bootstrap if there are few
rows, and is otherwise the bootstrap of random groups (Wolter, Introduction to Variance Estimation, 2007, chapter 2).
Intervals are percentile intervals.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import InputError
from raymlops.evaluation.partials import Layout, Partial
from raymlops.metrics import FALLING, Values, estimate

_MOST_NUMBERS = 2_000_000  # of sums in memory at once; a replicate of all cells is 25 kB


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value and the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{four_digits(self.value)} [{four_digits(self.low)}, {four_digits(self.high)}]"

    def to_json(self) -> dict[str, float | None]:
        return {name: none_if_nan(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Interval":
        return cls(*(nan_if_none(value[name]) for name in ("value", "low", "high")))


def draw_weights(groups: int, replicates: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """How often each group is drawn, (replicates, groups); the first row is the sample itself."""
    random = np.random.default_rng(seed)
    drawn = random.multinomial(groups, np.full(groups, 1 / groups), size=replicates)
    return np.concatenate([np.ones((1, groups)), drawn])


def resample(layout: Layout, sums: npt.NDArray[np.float64], replicates: int, seed: int = 0) -> Values:
    """Metric -> its value (first) and its replicates, (1 + replicates,)."""
    weights = draw_weights(layout.groups, replicates, seed)
    step = max(1, min(500, _MOST_NUMBERS // sums.shape[1]))
    return {
        name: np.concatenate(pieces)
        for name, pieces in _gather(
            estimate(layout.read(weights[start : start + step] @ sums))
            for start in range(0, len(weights), step)
        ).items()
    }


def to_interval(values: npt.NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """The interval of a value and its replicates; the bounds are nan if under half of the replicates are defined."""
    drawn = values[1:][~np.isnan(values[1:])]
    if len(drawn) < len(values) / 2:
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values[0]), float(low), float(high))


def find_intervals(
    layout: Layout,
    sums: npt.NDArray[np.float64],
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every metric of the sums with its interval."""
    values = resample(layout, sums, replicates, seed)
    return {name: to_interval(drawn, confidence) for name, drawn in values.items()}


def find_gains(
    metric: str, new: npt.NDArray[np.float64], old: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """How much better the new model is, in the metric's unit: value and replicates, drawn alike for both."""
    return old - new if metric in FALLING else new - old


def check_same_rows(first: Partial, second: Partial, key: tuple[str, str] = ("", "")) -> None:
    """Raise InputError unless both have equally many rows in each group."""
    if first.layout.fixed != second.layout.fixed or key not in first.sums or key not in second.sums:
        raise InputError(
            f"The two models were not measured in the same way: {first.layout} and {second.layout}"
        )
    parts = first.layout_of(key).segments
    counts = [
        p.sums[key][:, [parts["count"].start, parts["nonfinite"].start]].sum(axis=1) for p in (first, second)
    ]
    if not np.array_equal(*counts):
        raise InputError(
            f"The two models were measured on different rows ({counts[0].sum():.0f} and "
            f"{counts[1].sum():.0f}); score both in the same pass"
        )


def _gather(pieces: Any) -> dict[str, list[npt.NDArray[np.float64]]]:
    gathered: dict[str, list[npt.NDArray[np.float64]]] = {}
    for piece in pieces:
        for name, values in piece.items():
            gathered.setdefault(name, []).append(values)
    return gathered


def four_digits(value: float) -> str:
    """Four significant digits, with trailing zeros, so that the numbers of a column line up."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")


def none_if_nan(value: float) -> float | None:
    """nan becomes None, since JSON has no nan."""
    return value if np.isfinite(value) else None


def nan_if_none(value: float | None) -> float:
    return float("nan") if value is None else float(value)
