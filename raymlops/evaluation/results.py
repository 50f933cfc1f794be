"""Results of a pass: sums -> Evaluation: metrics, intervals, threshold, curves and slices as plain numbers.

They are stored beside a version and shown in the report.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import InputError
from raymlops.evaluation.intervals import Interval, find_intervals, none_if_nan
from raymlops.evaluation.partials import (
    ERROR_BINS,
    ERROR_SPAN,
    WHOLE,
    Layout,
    Partial,
    merge_rare_values,
)
from raymlops.evaluation.thresholds import Threshold, choose_threshold
from raymlops.metrics import estimate
from raymlops.metrics.formulas import by_bin, divide
from raymlops.specs.evaluation import EvaluationSpec

CURVE_POINTS = 200
_ERROR_CELLS = 40
Curves = dict[str, dict[str, list[float | None]]]


@dataclasses.dataclass(frozen=True)
class Slice:
    """The rows that have one value in a column."""

    column: str
    value: str
    rows: int
    metrics: Mapping[str, Interval]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model's results on some rows. Metrics, threshold, confusion and curves are weighed where rows have weights,
    counts of rows are not. For `nonfinite` rows an answer was nan or infinity; they are in no metric."""

    task: str
    rows: int
    nonfinite: int
    metrics: Mapping[str, Interval]
    threshold: Threshold | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    curves: Curves = dataclasses.field(default_factory=dict)
    slices: tuple[Slice, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "rows": self.rows,
            "nonfinite": self.nonfinite,
            "metrics": {name: interval.to_json() for name, interval in self.metrics.items()},
            "threshold": self.threshold.to_json() if self.threshold else None,
            "confusion": [list(row) for row in self.confusion],
            "curves": self.curves,
            "slices": [
                {**dataclasses.asdict(s), "metrics": {n: i.to_json() for n, i in s.metrics.items()}}
                for s in self.slices
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Evaluation":
        def intervals(held: Mapping[str, Any]) -> dict[str, Interval]:
            return {name: Interval.from_json(interval) for name, interval in held.items()}

        return cls(
            task=value["task"],
            rows=value["rows"],
            nonfinite=value["nonfinite"],
            metrics=intervals(value["metrics"]),
            threshold=Threshold.from_json(value["threshold"]) if value["threshold"] else None,
            confusion=tuple(tuple(row) for row in value["confusion"]),
            curves=value["curves"],
            slices=tuple(
                Slice(**{**part, "metrics": intervals(part["metrics"])}) for part in value["slices"]
            ),
        )


def finish(partial: Partial, spec: EvaluationSpec | None = None, seed: int = 0) -> Evaluation:
    """Turn the sums of a pass into numbers. Raises InputError if no row was scored."""
    spec = spec or EvaluationSpec()
    layout, sums = partial.layout, partial.sums[WHOLE]
    total = sums.sum(axis=0)
    rows, nonfinite = (int(total[layout.segments[name].start]) for name in ("count", "nonfinite"))
    if rows + nonfinite == 0:
        raise InputError("No row was scored; check the dataset and its split")
    return Evaluation(
        task=layout.task,
        rows=rows + nonfinite,
        nonfinite=nonfinite,
        metrics=find_intervals(layout, sums, spec.replicates, spec.confidence, seed),
        threshold=choose_threshold(layout, sums, spec.cost, spec.replicates, seed)
        if layout.task == "binary" and rows
        else None,
        confusion=_read_confusion(layout, total),
        curves=_CURVES[layout.task](layout, total) if rows else {},
        slices=tuple(_read_slices(partial, spec, seed)),
    )


def measure_once(partial: Partial, metric: str) -> float:
    """One metric of all rows, without an interval."""
    total = partial.sums[WHOLE].sum(axis=0, keepdims=True)
    return float(estimate(partial.layout.read(total))[metric][0])


def _read_slices(partial: Partial, spec: EvaluationSpec, seed: int) -> list[Slice]:
    layout = partial.layout.for_slices
    counted = layout.segments["count"].start
    slices = []
    for key, sums in merge_rare_values(dict(partial.sums), layout, spec.max_slices).items():
        rows = int(sums[:, counted].sum())
        if key != WHOLE and rows >= spec.slice_rows:
            found = find_intervals(layout, sums, spec.replicates, spec.confidence, seed)
            slices.append(Slice(key[0], key[1], rows, found))
    return sorted(slices, key=lambda part: (part.column, -part.rows))


def _read_confusion(layout: Layout, total: npt.NDArray[np.float64]) -> tuple[tuple[int, ...], ...]:
    if layout.task != "multiclass":
        return ()
    table = total[layout.segments["confusion"]].reshape(layout.classes, layout.classes)
    return tuple(tuple(int(count) for count in row) for row in table)


def _draw_binary(layout: Layout, total: npt.NDArray[np.float64]) -> Curves:
    positive, negative, chance = (total[layout.segments[n]] for n in ("positive", "negative", "chance"))
    found, alarms = (np.concatenate([[0.0], np.cumsum(cells[::-1])]) for cells in (positive, negative))
    lows = layout.lows
    shown = lows if layout.scores else np.append(lows[1:], 1.0) - 1e-9
    wide = np.clip((shown * 40).astype(np.int64), 0, 39)
    bins = {name: by_bin(lows, cells) for name, cells in (("hit", positive), ("all", positive + negative))}
    return {
        "roc": _thin({"x": divide(alarms, alarms[-1:]), "y": divide(found, found[-1:])}),
        "pr": _thin({"x": divide(found, found[-1:])[1:], "y": divide(found, found + alarms)[1:]}),
        "calibration": _plain(
            {
                "x": divide(by_bin(lows, chance), bins["all"]),
                "y": divide(bins["hit"], bins["all"]),
                "rows": bins["all"],
            }
        ),
        "scores": _plain(
            {
                "x": (np.arange(40) + 0.5) / 40,
                "positive": np.bincount(wide, weights=positive, minlength=40).astype(np.float64),
                "negative": np.bincount(wide, weights=negative, minlength=40).astype(np.float64),
            }
        ),
    }


def _draw_multiclass(layout: Layout, total: npt.NDArray[np.float64]) -> Curves:
    hits, tops, binned = (total[layout.segments[name]] for name in ("hits", "tops", "binned"))
    cells = (layout.classes, -1)
    positive, negative = (total[layout.segments[name]].reshape(cells) for name in ("positive", "negative"))
    rates = {"x": divide(tops, binned), "y": divide(hits, binned), "rows": binned}
    curves = {"calibration": _plain(rates)}
    for place in range(min(layout.classes, 10)):
        found = np.concatenate([[0], np.cumsum(positive[place, ::-1])])
        alarms = np.concatenate([[0], np.cumsum(negative[place, ::-1])])
        curves[f"roc {place}"] = _thin({"x": divide(alarms, alarms[-1:]), "y": divide(found, found[-1:])})
    return curves


def _draw_regression(layout: Layout, total: npt.NDArray[np.float64]) -> Curves:
    names = ("predicted", "predicted_sum", "target_sum", "errors")
    rows, given, target, errors = (total[layout.segments[name]] for name in names)
    return {
        "predicted": _plain(
            {"x": layout.shift + divide(given, rows), "y": layout.shift + divide(target, rows), "rows": rows}
        ),
        "errors": _plain(_gather_errors(errors, 2 * ERROR_SPAN * layout.spread / ERROR_BINS)),
    }


def _gather_errors(counts: npt.NDArray[np.float64], width: float) -> dict[str, npt.NDArray[np.float64]]:
    """Cells on both sides of zero error, as narrow as possible while nearly all rows fit; the outermost hold the
    rest."""
    middle, side = len(counts) // 2, _ERROR_CELLS // 2
    reach = [counts[middle - half : middle + half].sum() for half in range(1, middle + 1)]
    half = int(np.argmax(np.asarray(reach) >= 0.995 * reach[-1])) + 1
    together = min(-(-half // side), middle // side)
    places = np.clip((np.arange(len(counts)) - middle) // together + side, 0, _ERROR_CELLS - 1)
    middles = (np.arange(_ERROR_CELLS) + 0.5 - side) * together * width
    rows = np.bincount(places, weights=counts, minlength=_ERROR_CELLS)
    return {"x": middles.astype(np.float64), "rows": rows.astype(np.float64)}


_CURVES: dict[str, Any] = {
    "binary": _draw_binary,
    "multiclass": _draw_multiclass,
    "regression": _draw_regression,
}


def _thin(curve: dict[str, npt.NDArray[np.float64]]) -> dict[str, list[float | None]]:
    """Drop points that do not move, then keep about CURVE_POINTS spread evenly along the curve."""
    points = np.stack(list(curve.values()))
    points = points[:, ~np.isnan(points).any(axis=0)]
    if points.shape[1] > CURVE_POINTS:
        length = np.concatenate([[0], np.cumsum(np.abs(np.diff(points, axis=1)).sum(axis=0))])
        chosen = np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS))
        points = points[
            :, np.unique(np.concatenate([[0], chosen, [len(length) - 1]]).clip(0, len(length) - 1))
        ]
    return _plain(dict(zip(curve, points, strict=True)))


def _plain(curve: dict[str, npt.NDArray[np.float64]]) -> dict[str, list[float | None]]:
    return {name: [none_if_nan(float(f"{float(v):.6g}")) for v in values] for name, values in curve.items()}
