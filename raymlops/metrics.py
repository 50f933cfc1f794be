"""Metrics of predictions as pure functions of arrays. numpy only: no streaming, no intervals, no thresholds.

Labels are 0/1 in binary tasks, class indexes in multiclass ones. `weights` are one a row, by default all 1.
A metric that its rows do not define (ROC AUC of one class, R2 of a constant) is nan, never an error.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_SMALLEST = float(np.finfo(np.float64).eps)


def roc_auc(labels: Array, scores: Array, weights: Array | None = None) -> float:
    """Area under the ROC curve; tied scores count one half (Mann-Whitney)."""
    positive, negative = _weights_by_score(labels, scores, weights)
    total = positive.sum() * negative.sum()
    if total == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float(np.sum(positive * (below + negative / 2)) / total)


def average_precision(labels: Array, scores: Array, weights: Array | None = None) -> float:
    """Sum of precision times the step in recall over falling thresholds; not interpolated."""
    positive, negative = (counts[::-1] for counts in _weights_by_score(labels, scores, weights))
    if positive.sum() == 0:
        return float("nan")
    found = np.cumsum(positive)
    chosen = found + np.cumsum(negative)
    precision = np.divide(found, chosen, out=np.ones_like(found), where=chosen > 0)
    return float(np.sum(precision * positive) / positive.sum())


def log_loss(labels: Array, probabilities: Array, weights: Array | None = None) -> float:
    """Mean negative log-likelihood of a binary outcome, in nats."""
    chance = np.clip(np.asarray(probabilities, dtype=np.float64), _SMALLEST, 1 - _SMALLEST)
    return _mean(-np.log(np.where(np.asarray(labels) > 0, chance, 1 - chance)), weights)


def brier(labels: Array, probabilities: Array, weights: Array | None = None) -> float:
    """Mean squared distance of the probability from the outcome."""
    return _mean((np.asarray(probabilities, dtype=np.float64) - np.asarray(labels)) ** 2, weights)


def expected_calibration_error(
    labels: Array, probabilities: Array, weights: Array | None = None, bins: int = 15
) -> float:
    """Mean distance of rate from probability in `bins` of equal width (ECE, Naeini et al. 2015)."""
    chance = np.asarray(probabilities, dtype=np.float64)
    mass = _as_weights(weights, len(chance))
    if mass.sum() == 0:
        return float("nan")
    place = np.clip((chance * bins).astype(np.int64), 0, bins - 1)
    gaps = np.bincount(place, weights=mass * (chance - np.asarray(labels)), minlength=bins)
    return float(np.abs(gaps).sum() / mass.sum())


def accuracy(labels: Array, predicted: Array, weights: Array | None = None) -> float:
    """Share of rows whose predicted class is the label."""
    return _mean((np.asarray(labels) == np.asarray(predicted)).astype(np.float64), weights)


def macro_f1(labels: Array, predicted: Array, weights: Array | None = None) -> float:
    """Unweighted mean of F1 over the classes that occur in the labels or the predictions."""
    classes, places = np.unique(
        np.concatenate([np.asarray(labels), np.asarray(predicted)]), return_inverse=True
    )
    true, guess = np.split(places, [len(labels)])
    mass = _as_weights(weights, len(true))
    count = len(classes)
    hits = np.bincount(true, weights=mass * (true == guess), minlength=count)
    both = np.bincount(true, weights=mass, minlength=count) + np.bincount(
        guess, weights=mass, minlength=count
    )
    if count == 0:
        return float("nan")
    return float(np.mean(np.divide(2 * hits, both, out=np.zeros(count), where=both > 0)))


def multiclass_log_loss(labels: Array, probabilities: Array, weights: Array | None = None) -> float:
    """Mean negative log-likelihood in nats; probabilities are (rows, classes) and are normalised."""
    chance = np.asarray(probabilities, dtype=np.float64)
    chance = np.clip(chance / chance.sum(axis=1, keepdims=True), _SMALLEST, 1.0)
    return _mean(-np.log(chance[np.arange(len(chance)), np.asarray(labels, dtype=np.int64)]), weights)


def multiclass_brier(labels: Array, probabilities: Array, weights: Array | None = None) -> float:
    """Mean over rows of the squared distance from the one-hot label, 0 to 2."""
    chance = np.asarray(probabilities, dtype=np.float64)
    onehot = np.arange(chance.shape[1]) == np.asarray(labels)[:, None]
    return _mean(((chance - onehot) ** 2).sum(axis=1), weights)


def multiclass_roc_auc(labels: Array, probabilities: Array, weights: Array | None = None) -> float:
    """Unweighted mean of each class's ROC AUC against the rest, over the classes that have one."""
    true, chance = np.asarray(labels), np.asarray(probabilities)
    areas = [roc_auc(true == place, chance[:, place], weights) for place in range(chance.shape[1])]
    defined = [area for area in areas if not np.isnan(area)]
    return float(np.mean(defined)) if defined else float("nan")


def rmse(labels: Array, predictions: Array, weights: Array | None = None) -> float:
    """Root of the mean squared error, in the target's unit."""
    return float(np.sqrt(_mean(_errors(labels, predictions) ** 2, weights)))


def mae(labels: Array, predictions: Array, weights: Array | None = None) -> float:
    """Mean absolute error, in the target's unit."""
    return _mean(np.abs(_errors(labels, predictions)), weights)


def r2(labels: Array, predictions: Array, weights: Array | None = None) -> float:
    """Share of the target's variance that is explained; nan where the target does not vary."""
    true = np.asarray(labels, dtype=np.float64)
    spread = _mean((true - _mean(true, weights)) ** 2, weights)
    return 1 - _mean(_errors(true, predictions) ** 2, weights) / spread if spread > 0 else float("nan")


Metric = Callable[..., float]
BINARY: dict[str, Metric] = {
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "log_loss": log_loss,
    "brier": brier,
    "calibration_error": expected_calibration_error,
    "accuracy": lambda labels, scores, weights=None: accuracy(labels, np.asarray(scores) >= 0.5, weights),
}
MULTICLASS: dict[str, Metric] = {
    "accuracy": lambda labels, scores, weights=None: accuracy(labels, np.argmax(scores, axis=1), weights),
    "macro_f1": lambda labels, scores, weights=None: macro_f1(labels, np.argmax(scores, axis=1), weights),
    "log_loss": multiclass_log_loss,
    "brier": multiclass_brier,
    "roc_auc": multiclass_roc_auc,
    "calibration_error": lambda labels, scores, weights=None: expected_calibration_error(
        np.argmax(scores, axis=1) == labels, np.max(scores, axis=1), weights
    ),
}
REGRESSION: dict[str, Metric] = {"rmse": rmse, "mae": mae, "r2": r2}
METRICS = {"binary": BINARY, "multiclass": MULTICLASS, "regression": REGRESSION}
"""Task -> metric's name -> function of (labels, scores, weights); scores are probabilities or predictions."""

FALLING = frozenset({"log_loss", "brier", "calibration_error", "rmse", "mae", "cost"})
"""The metrics that are better when smaller; all others are better when larger."""


def measure(task: str, labels: Array, scores: Array, weights: Array | None = None) -> dict[str, float]:
    """Every metric of the task by name."""
    return {name: metric(labels, scores, weights) for name, metric in METRICS[task].items()}


def gain(name: str, new: float, old: float) -> float:
    """How much better `new` is than `old`, in the metric's own unit; negative is worse."""
    return old - new if name in FALLING else new - old


def _weights_by_score(labels: Array, scores: Array, weights: Array | None) -> tuple[Array, Array]:
    """Positive and negative weight of each distinct score, scores rising."""
    values, places = np.unique(np.asarray(scores), return_inverse=True)
    mass = _as_weights(weights, len(places))
    positive = np.asarray(labels) > 0
    return (
        np.bincount(places, weights=mass * positive, minlength=len(values)),
        np.bincount(places, weights=mass * ~positive, minlength=len(values)),
    )


def _as_weights(weights: Array | None, rows: int) -> Array:
    return np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)


def _errors(labels: Array, predictions: Array) -> Array:
    return np.asarray(predictions, dtype=np.float64) - np.asarray(labels, dtype=np.float64)


def _mean(values: Array, weights: Array | None) -> float:
    mass = _as_weights(weights, len(values))
    total = mass.sum()
    return float(np.sum(mass * values) / total) if total > 0 else float("nan")
