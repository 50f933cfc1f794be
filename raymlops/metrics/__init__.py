"""The metrics, each listed once: its task, which direction is better, and its formula over sums of rows.

Labels are 0/1 in binary tasks, class indexes in multiclass ones. `weights` are one per row, by default all 1.
`measure` takes rows in memory and is exact; `raymlops.evaluation` estimates the same metrics, with intervals, from
sums of streamed rows. numpy only.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from raymlops.metrics import formulas
from raymlops.metrics.sums import Sums, sum_rows
from raymlops.tensors import Array, Floats

Formula = Callable[[Sums], Floats]
Values = dict[str, Floats]
"""Metric -> its value in each replicate."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric of one task."""

    task: str
    name: str
    of: Formula
    """(replicates, ...) -> (replicates,); nan where the rows do not define it."""
    guessed: Formula | None = None
    """The same for a model that gives every row the target's own rates or mean; None if that is meaningless."""
    falls: bool = False
    """Whether smaller is better."""

    def __call__(self, labels: Array, scores: Array, weights: Array | None = None) -> float:
        """Exact, from rows in memory; nan if a score is not finite."""
        return _measure(self.task, [self], labels, scores, weights)[self.name]


_LISTED = (
    Metric("binary", "roc_auc", formulas.roc_auc, formulas.guessed_area),
    Metric("binary", "average_precision", formulas.average_precision, formulas.guessed_precision),
    Metric("binary", "log_loss", formulas.mean_log_loss, formulas.guessed_log_loss, falls=True),
    Metric("binary", "brier", formulas.mean_brier, formulas.guessed_brier, falls=True),
    Metric("binary", "calibration_error", formulas.calibration_error, falls=True),
    Metric("binary", "accuracy", formulas.accuracy, formulas.guessed_accuracy),
    Metric("binary", "balanced_accuracy", formulas.balanced_accuracy, formulas.guessed_recall),
    Metric("binary", "f1", functools.partial(formulas.f_beta, beta=1.0)),
    Metric("binary", "f2", functools.partial(formulas.f_beta, beta=2.0)),
    Metric("binary", "f_half", functools.partial(formulas.f_beta, beta=0.5)),
    Metric("binary", "top_decile_lift", formulas.top_decile_lift, formulas.guessed_lift),
    Metric("multiclass", "accuracy", formulas.accuracy, formulas.guessed_accuracy),
    Metric("multiclass", "balanced_accuracy", formulas.balanced_accuracy, formulas.guessed_recall),
    Metric("multiclass", "macro_f1", formulas.macro_f1),
    Metric("multiclass", "log_loss", formulas.mean_log_loss, formulas.guessed_log_loss, falls=True),
    Metric("multiclass", "brier", formulas.mean_brier, formulas.guessed_brier, falls=True),
    Metric("multiclass", "roc_auc", formulas.mean_roc_auc, formulas.guessed_area),
    Metric("multiclass", "calibration_error", formulas.calibration_error, falls=True),
    Metric("regression", "rmse", formulas.rmse, formulas.guessed_rmse, falls=True),
    Metric("regression", "mae", formulas.mae, falls=True),
    *(
        Metric("regression", name, functools.partial(formulas.pinball, quantile=quantile), falls=True)
        for name, quantile in (
            ("pinball_05", 0.05),
            ("pinball_10", 0.1),
            ("pinball_90", 0.9),
            ("pinball_95", 0.95),
        )
    ),
    Metric("regression", "r2", formulas.r2, formulas.guessed_r2),
)
METRICS: dict[str, dict[str, Metric]] = {
    task: {metric.name: metric for metric in _LISTED if metric.task == task}
    for task in ("binary", "multiclass", "regression")
}
"""Task -> metric's name -> metric."""
NAMES = frozenset(metric.name for metric in _LISTED)
FALLING = frozenset(metric.name for metric in _LISTED if metric.falls)
"""The metrics that are better when smaller; all others are better when larger."""


SPECIAL = frozenset(name for name in NAMES if name.startswith("pinball_"))
"""The metrics that only matter where they were asked for."""


def measure(task: str, labels: Array, scores: Array, weights: Array | None = None) -> dict[str, float]:
    """Every metric of the task by name, exact; all nan if a score is not finite.

    Scores are probabilities or predictions, (rows,) or (rows, classes).
    """
    return _measure(task, list(METRICS[task].values()), labels, scores, weights)


def estimate(sums: Sums) -> Values:
    """Every metric of the task for each replicate of the sums."""
    return {name: metric.of(sums) for name, metric in METRICS[sums.task].items()}


def guess_without_a_model(sums: Sums) -> Values:
    """The metrics if every row got the target's own rates or mean: the baseline of any model."""
    return {name: metric.guessed(sums) for name, metric in METRICS[sums.task].items() if metric.guessed}


def gain(name: str, new: float, old: float) -> float:
    """How much better `new` is than `old`, in the metric's own unit; negative is worse."""
    return old - new if name in FALLING else new - old


def _measure(
    task: str, chosen: list[Metric], labels: Array, scores: Array, weights: Array | None
) -> dict[str, float]:
    sums = sum_rows(
        task,
        labels,
        scores,
        classes=np.shape(scores)[1] if task == "multiclass" else 2,
        shift=_mean(labels, weights) if task == "regression" else 0.0,
        weights=weights,
    )
    if sums["nonfinite"].any():
        return {metric.name: float("nan") for metric in chosen}
    return {metric.name: float(metric.of(sums)[0]) for metric in chosen}


def _mean(labels: Array, weights: Array | None) -> float:
    values = np.asarray(labels, dtype=np.float64)
    mass = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    return float(np.sum(mass * values) / mass.sum()) if mass.sum() > 0 else 0.0
