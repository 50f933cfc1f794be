"""The loss of each row of margins, and its slope: log loss, or the loss of a regression's training in the target's own
unit. Trains nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.features import FittedTarget
from raymlops.specs.training import TrainingSpec

Floats = npt.NDArray[np.floating[Any]]
_LEAST_COUNT = 1e-9


@dataclasses.dataclass(frozen=True)
class RowLoss:
    """Of rows with known labels; margins are (..., rows, outputs)."""

    value: Callable[[Floats], Floats]
    """Margins -> the loss of each row (..., rows)."""
    slope: Callable[[Floats], Floats]
    """Margins (rows, outputs) -> the derivative of the row's loss by each of them (rows, outputs)."""
    of_classes: bool = False

    def __call__(self, margins: Floats) -> Floats:
        return self.value(margins)


def make_loss(spec: TrainingSpec, target: FittedTarget, labels: npt.NDArray[Any]) -> RowLoss:
    """Of packed labels (rows,)."""
    if target.task == "binary":
        return _make_log_loss_of_two(labels)
    if target.task == "multiclass":
        return _make_log_loss(labels)
    true = target.to_own_unit(labels.astype(np.float64))
    kind = REGRESSIONS[spec.loss or "mse"](true, spec.quantile)

    def slope(margins: Floats) -> Floats:
        step = 1e-4  # a transform of the target has no slope of its own; for most targets this is exact
        own = target.to_own_unit(margins[..., 0])
        unit = (target.to_own_unit(margins[..., 0] + step) - target.to_own_unit(margins[..., 0] - step)) / (
            2 * step
        )
        return np.asarray((kind.slope(own) * unit)[..., None])

    return RowLoss(lambda margins: kind.value(target.to_own_unit(margins[..., 0])), slope)


def _make_log_loss_of_two(labels: npt.NDArray[Any]) -> RowLoss:
    known = labels.astype(np.float64)
    signs = 1 - 2 * known
    return RowLoss(
        lambda margins: np.asarray(np.logaddexp(0, signs * margins[..., 0])),
        lambda margins: np.asarray((np.exp(-np.logaddexp(0, -margins[..., 0])) - known)[..., None]),
        of_classes=True,
    )


def _make_log_loss(labels: npt.NDArray[Any]) -> RowLoss:
    places = labels.astype(np.int64)[:, None]

    def value(margins: Floats) -> Floats:
        top = margins.max(axis=-1)
        total = top + np.log(np.exp(margins - top[..., None]).sum(axis=-1))
        chosen = np.take_along_axis(margins, np.broadcast_to(places, (*margins.shape[:-1], 1)), axis=-1)
        return np.asarray(total - chosen[..., 0])

    def slope(margins: Floats) -> Floats:
        powers = np.exp(margins - margins.max(axis=-1, keepdims=True))
        found = powers / powers.sum(axis=-1, keepdims=True)
        np.put_along_axis(found, places, np.take_along_axis(found, places, axis=-1) - 1, axis=-1)
        return np.asarray(found)

    return RowLoss(value, slope, of_classes=True)


def _squared(true: Floats, quantile: float) -> RowLoss:
    return RowLoss(lambda given: (true - given) ** 2, lambda given: 2 * (given - true))


def _absolute(true: Floats, quantile: float) -> RowLoss:
    return RowLoss(lambda given: np.abs(true - given), lambda given: np.sign(given - true))


def _pinball(true: Floats, quantile: float) -> RowLoss:
    return RowLoss(
        lambda given: np.maximum(quantile * (true - given), (quantile - 1) * (true - given)),
        lambda given: np.where(true > given, -quantile, 1 - quantile),
    )


def _poisson(true: Floats, quantile: float) -> RowLoss:
    def value(given: Floats) -> Floats:
        counts = np.maximum(given, _LEAST_COUNT)
        return np.asarray(counts - true * np.log(counts))

    return RowLoss(
        value, lambda given: np.where(given > _LEAST_COUNT, 1 - true / np.maximum(given, _LEAST_COUNT), 0.0)
    )


REGRESSIONS: dict[str, Callable[[Floats, float], RowLoss]] = {
    "mse": _squared,
    "mae": _absolute,
    "quantile": _pinball,
    "poisson": _poisson,
}
"""Name -> the loss of predictions (..., rows) in the target's own unit, for true values (rows,) and a quantile."""
